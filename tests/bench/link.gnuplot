# SPDX-License-Identifier: Apache-2.0
# The table of tests/bench/link as a picture, one bandwidth, the least loss and the greatest:
# gnuplot -e "data='build/bench/link.txt'; out='link.svg'; mbit='10'; low='0'; high='0.05'" link.gnuplot
set terminal svg noenhanced size 1200,700 font "sans-serif,13" background "white"
set output out
set multiplot layout 2,3 title "Edge and cloud over a link of ".mbit." Mbit/s; full lines: loss ".low.", dashed: ".high
set grid ytics lc rgb "#dddddd"
set border 3
set tics nomirror
set xlabel "round trip, ms"
set xrange [0:*]
rows(mode, loss) = "< awk '$2 == ".loss." && $3 == ".mbit." && $4 == \"".mode."\"' ".data
local(i) = real(system("awk '$4 == \"local\" { print $".i." }' ".data." | head -n 1 | grep . || echo NaN"))
modes = "cloud exact assist"
array colours[3] = ["#ee9944", "#228833", "#4477aa"]

do for [panel in "6 5 7 8 9"] {
    i = int(panel)
    set key off
    if (i == 6) { set title "first token, ms (median)"; set key top left reverse Left samplen 2 }
    if (i == 5) { set title "tokens a second, whole answers" }
    if (i == 7) { set title "processor time of the cloud, ms a token" }
    if (i == 8) { set title "bytes on the link an answer, both ways" }
    if (i == 9) { set title "right answers, %"; set yrange [0:105] } else { set yrange [0:*] }
    if (i == 5) { set logscale y; set yrange [*:*] } else { unset logscale y }
    at = local(i)
    plot for [k = 1:3] rows(word(modes, k), low) using 1:i with linespoints lw 2 pt 7 ps 0.6 lc rgb colours[k] title word(modes, k), \
         for [k = 1:3] rows(word(modes, k), high) using 1:i with linespoints lw 2 dt 2 pt 6 ps 0.6 lc rgb colours[k] notitle, \
         at with lines lw 1 lc rgb "#999999" title "local"
}
unset multiplot
