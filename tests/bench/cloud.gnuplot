# SPDX-License-Identifier: Apache-2.0
# Tables of tests/bench/cloud as pictures: gnuplot -e "folder='build/bench'; out='cloud.svg'; tables='load spec'" cloud.gnuplot
panels = (strstrt(tables, "load") > 0 ? 2 : 0) + (strstrt(tables, "spec") > 0 ? 1 : 0)
set terminal svg noenhanced size 400 * panels,400 font "sans-serif,13" background "white"
set output out
set multiplot layout 1,panels
set grid ytics lc rgb "#dddddd"
set border 3
set tics nomirror
load = folder."/cloud-load.txt"
spec = folder."/cloud-spec.txt"
rows(file) = "< grep -v -e '^#' -e '^label' ".file
set key top left reverse Left samplen 2

if (strstrt(tables, "load") > 0) {
# Four marks at round numbers: what gnuplot chooses itself runs together in panels this narrow.
stats rows(load) using 2 nooutput
digit = 10.0 ** floor(log10(STATS_max / 4))
set xtics digit * ceil(STATS_max / 4 / digit)
set title "Latency against offered load"
set xlabel "sessions a second"
set ylabel "ms"
set logscale y
set key bottom right noreverse Right
plot rows(load) using 2:($9 > 0 ? $9 : 1/0) with linespoints lw 2 pt 7 ps 0.6 lc rgb "#4477aa" title "first token, p50", \
     "" using 2:($10 > 0 ? $10 : 1/0) with linespoints lw 2 dt 2 pt 6 ps 0.6 lc rgb "#4477aa" title "first token, p99", \
     "" using 2:($11 > 0 ? $11 : 1/0) with linespoints lw 2 pt 7 ps 0.6 lc rgb "#ee9944" title "between tokens, p50", \
     "" using 2:($12 > 0 ? $12 : 1/0) with linespoints lw 2 dt 2 pt 6 ps 0.6 lc rgb "#ee9944" title "between tokens, p99"

set title "What comes of it"
set ylabel "tokens a second, whole sessions"
set y2label "share refused"
unset logscale y
set yrange [0:*]
set y2range [0:1]
set y2tics
set border 11
set key bottom right noreverse Right
plot rows(load) using 2:8 with linespoints lw 2 pt 7 ps 0.6 lc rgb "#228833" title "goodput", \
     "" using 2:($5 / $3) axes x1y2 with linespoints lw 2 pt 6 ps 0.6 lc rgb "#cc3311" title "refused"

unset y2label
unset y2tics
set border 3
set yrange [0:*]
}
if (strstrt(tables, "spec") > 0) {
set title "Speculation by concurrency"
set xlabel "sessions at once"
set ylabel "tokens a second"
set xtics autofreq
set logscale x 2
set key top left reverse Left
labels = system("awk '!/^#/ && $1 != \"label\" { print $1 }' ".spec." | awk '!seen[$0]++'")
plot for [l in labels] "< awk '$1 == \"".l."\"' ".spec using 2:8 smooth unique with linespoints lw 2 pt 7 ps 0.6 title l
}
unset multiplot
