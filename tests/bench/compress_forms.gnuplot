# SPDX-License-Identifier: Apache-2.0
# The table of tests/bench/compress_forms as a picture: gnuplot -e "data='compress_forms.txt'; out='compress.svg'; full='5.49'" compress_forms.gnuplot
set terminal svg noenhanced size 1060,430 font "sans-serif,13" background "white"
set output out
set grid ytics lc rgb "#dddddd"
set border 3
set tics nomirror
set xlabel "megabytes of the file"
kinds = system("cut -d'\"' -f2 ".data." | tr ' ' '~' | awk '!seen[$0]++'")
shown(k) = system("echo '".k."' | tr '~' ' '")
rows(k) = "< grep -F '\"".shown(k)."\"' ".data." | sort -n"
set multiplot layout 1,2 title "What compressed layers cost"
low = real(full)
unset key
set rmargin at screen 0.36
set title "perplexity"
set logscale y
set yrange [low * 0.97:low * 3.3]
set ytics (low)
do for [share in "1.05 1.25 1.5 2 3"] { set ytics add (low * share) }
set format y "%.2f"
plot for [i = 1:words(kinds)] rows(word(kinds, i)) using 1:2 with linespoints lw 2 pt i + 3 ps 0.6, \
     low with lines dt 2 lc rgb "#888888"
set lmargin at screen 0.43
set rmargin at screen 0.78
set key outside right top Left reverse samplen 2
set title "coupled acceptance"
unset logscale y
set yrange [0.3:1]
set ytics 0.1
set format y "%.1f"
plot for [i = 1:words(kinds)] rows(word(kinds, i)) using 1:3 with linespoints lw 2 pt i + 3 ps 0.6 title shown(word(kinds, i)), \
     1 with lines dt 2 lc rgb "#888888" title "uncompressed"
unset multiplot
