# SPDX-License-Identifier: Apache-2.0
# The table of tests/bench/kv_levels as a picture: gnuplot -e "data='kv_levels.txt'; out='kv_levels.svg'" kv_levels.gnuplot
set terminal svg noenhanced size 720,420 font "sans-serif,13" background "white"
set output out
set key top right reverse Left samplen 2
set grid ytics lc rgb "#dddddd"
set border 3
set tics nomirror
set title "What sealed, archived and evicted KV costs"
set xlabel "bits of an element, everything included; archived blocks on the left, evicted: of all tokens"
set logscale x 2
set yrange [-8<*<0:10]
set ylabel "perplexity above f16, per cent"
models = system("awk 'NR > 1 { print $1 }' ".data." | awk '!seen[$0]++'")
row(m) = sprintf("< awk '$1 == \"%s\" && $2 != \"f16\" && $2 !~ /-128$|@/ { print $3, $5 + 0, $2 }' %s | sort -n", m, data)
held(m, p) = sprintf("< awk '$1 == \"%s\" && $2 ~ /^%s@/ { print $3, $5 + 0 }' %s | sort -n", m, p, data)
last = word(models, words(models))
plot for [m in models] row(m) using 1:2 with linespoints lw 2 pt 7 ps 0.6 title m, \
     row(last) using 1:2:3 with labels offset 0,1 font ",10" notitle, \
     for [p in "window h2o diverse a2sf"] held(last, p) using 1:2 with linespoints lw 2 dt 2 pt 6 ps 0.6 title last." evicted, ".p
