# SPDX-License-Identifier: GPL-2.0
# Run in results/BASE: walk.png from walk-unpatched.csv and walk-patched.csv, for
# 256 sharers without forks
set terminal pngcairo size 900,540 font "sans,11"
set output "walk.png"
set datafile separator ","
set title "One rmap walk of a KSM page that is mapped 256 times"
set xlabel "VMAs in the anon\\_vma"
set ylabel "instructions"
set logscale xy
set format y "10^{%T}"
set grid
set key left top
set xrange [0.8:30000]
set yrange [50000:2e9]
pick(f) = sprintf("<awk -F, 'NR > 1 && $2 == 256 && $3 == 0 {print $1 \",\" $8}' walk-%s.csv", f)
limit = system("awk -F, 'NR > 1 && $2 == 1 && $3 == 255 && $4 == 0 {print $8}' walk-patched.csv") + 0
plot pick("unpatched") using 1:2 with linespoints lw 2 pt 7 title "unpatched", \
     pick("patched") using 1:2 with linespoints lw 2 pt 5 title "patched", \
     limit with lines lw 2 dt 2 title "an ordinary page, mapped as often"
