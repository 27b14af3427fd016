# SPDX-License-Identifier: Apache-2.0
# The table of tests/bench/compress_forms as a picture: gnuplot -e "data='compress_forms.txt'; out='compress.svg'; full='5.49'" compress_forms.gnuplot
set terminal svg noenhanced size 760,430 font "sans-serif,13" background "white"
set output out
set key outside right top Left reverse samplen 2
set grid ytics lc rgb "#dddddd"
set border 3
set tics nomirror
set title "What compressed layers cost"
set xlabel "megabytes of the file"
set ylabel "perplexity"
set logscale y
low = real(full)
set yrange [low * 0.97:low * 3.3]
set ytics (low)
do for [share in "1.05 1.25 1.5 2 3"] { set ytics add (low * share) }
set format y "%.2f"
kinds = system("cut -d'\"' -f2 ".data." | tr ' ' '~' | awk '!seen[$0]++'")
shown(k) = system("echo '".k."' | tr '~' ' '")
plot for [i = 1:words(kinds)] "< grep -F '\"".shown(word(kinds, i))."\"' ".data." | sort -n" \
     using 1:2 with linespoints lw 2 pt 7 ps 0.6 title shown(word(kinds, i)), \
     low with lines dt 2 lc rgb "#888888" title "uncompressed"
