# SPDX-License-Identifier: Apache-2.0
# The table of tests/bench/engine as pictures: gnuplot -e "data='engine.txt'; out='engine.svg'" engine.gnuplot
set terminal svg noenhanced size 1080,480 font "sans-serif,13" background "white"
set output out
set multiplot layout 1,2
set linetype 5 lc rgb "#cc3311"
set key top left reverse Left samplen 2
set grid ytics lc rgb "#dddddd"
set border 3
set tics nomirror
shapes = system("awk '!/^#/ && $1 != \"model\" { print $1 }' ".data." | sort -u")
big = word(shapes, words(shapes))
types = system(sprintf("awk '!/^#/ && $1 == \"%s\" { print $2 }' %s", big, data))

set title sprintf("Throughput by batch width, %s shape", big)
set xlabel "sequences in a step"
set ylabel "tokens a second"
set logscale x 2
set yrange [0:*]
row(t) = sprintf("< awk '$1 == \"%s\" && $2 == \"%s\" { print 1, $3; print 2, $6; print 4, $7; print 8, $8; print 16, $9; print 32, $10 }' %s", big, t, data)
plot for [t in types] row(t) using 1:2 with linespoints lw 2 pt 7 ps 0.6 title t

unset logscale x
set title "Share of what the machine can do"
set xlabel ""
set ylabel "share"
set yrange [0:1.3]
set arrow 1 from graph 0, first 1 to graph 1, first 1 nohead lc rgb "#888888" dt 2
set style data histograms
set style histogram clustered gap 1
set style fill solid 0.8 border -1
set key top right noreverse Right horizontal
set xtics rotate by 90 right
plot "< awk '!/^#/ && $1 != \"model\" { print $1 \" \" $2, $5, $15 }' ".data using 3:xticlabels(stringcolumn(1)." ".stringcolumn(2)) lc rgb "#4477aa" title "decode, of the bandwidth", \
     "" using 4 lc rgb "#ee9944" title "prefill, of the arithmetic"
unset multiplot
