# SPDX-License-Identifier: Apache-2.0
# The tables of docs/explanation/pictures: gnuplot -e "folder='/tmp/tables'; out='docs/explanation'" pictures.gnuplot
set terminal svg noenhanced size 640,400 font "sans-serif,13" background "white"
set grid lc rgb "#dddddd"
set border 3
set tics nomirror

set output out."/tradeoff.svg"
set title "minnow, 4000 questions: right answers against the cloud's share"
set xlabel "tokens from the cloud, %"
set ylabel "answers right in every token, %"
set xrange [-1:24]
set yrange [75:102]
set key off
plot "< grep -v cloud ".folder."/tradeoff.txt | sort -n" using 1:2 with points pt 7 ps 0.8 lc rgb "#4477aa", \
     "< grep -v cloud ".folder."/tradeoff.txt" using 1:2:(stringcolumn(3) eq "local" ? "local" : "") with labels left offset 1,0, \
     "< grep rate ".folder."/tradeoff.txt | sort -n" using 1:2 with lines lw 2 lc rgb "#4477aa", \
     "< grep -e rate -e risk ".folder."/tradeoff.txt | sed 's/~/ /'" using 1:2:(strcol(3)." ".strcol(4)) with labels left offset 1,-0.8, \
     "< grep cloud ".folder."/tradeoff.txt" using (-1):2:(25):(0) with vectors nohead dt 2 lw 1.5 lc rgb "#cc3311", \
     "< grep cloud ".folder."/tradeoff.txt" using (1):2:("cloud alone, all tokens") with labels left offset 0,0.8 tc rgb "#cc3311"

set output out."/coupling.svg"
set title "How often a draft is the cloud's own sample"
set xlabel "total variation distance of the two distributions"
set ylabel "probability"
set xrange [0:1]
set yrange [0:1]
set key top right
plot folder."/coupling.txt" using 1:2 with points pt 7 ps 0.4 lc rgb "#4477aa" title "shared noise, 400 pairs of 50 tokens", \
     (1 - x) / (1 + x) with lines lw 2 lc rgb "#cc3311" title "at least (1 - TV) / (1 + TV)", \
     1 - x with lines lw 1.5 dt 2 lc rgb "#888888" title "1 - TV: the most any method gets"

set output out."/risk.svg"
set title "Differing tokens that a threshold may show and still be taken, 95 %"
set xlabel "answers to calibrate with"
set ylabel "share of tokens, %, averaged over answers"
set logscale x
set xrange [50:3000]
set yrange [0:5.2]
set xtics (50, 100, 300, 1000, 3000)
set key top left reverse Left
plot for [i = 0:2] folder."/risk.txt" index i using 2:3 with lines lw 2 lc rgb word("#4477aa #228833 #ee9944", i + 1) \
         title word("1 2 5", i + 1)." % is promised", \
     for [i = 0:2] word("1 2 5", i + 1) + 0 with lines dt 2 lc rgb word("#4477aa #228833 #ee9944", i + 1) notitle
unset logscale

set output out."/break_even.svg"
set title "Time to the first token by where the prompt's KV comes from"
set xlabel "tokens of the prompt"
set ylabel "seconds"
set logscale xy 2
set xrange [64:16384]
set yrange [0.25:256]
set xtics 64, 4
set ytics 0.25, 4
set key top left reverse Left
plot folder."/break_even.txt" using 1:2 with linespoints lw 2 pt 7 ps 0.5 lc rgb "#cc3311" title "computed at the edge", \
     for [i = 3:5] "" using 1:i with linespoints lw 1.5 pt 6 ps 0.5 lc rgb word("#ee9944 #4477aa #228833", i - 2) \
         title "fetched over ".word("5 20 100", i - 2)." Mbit/s"
