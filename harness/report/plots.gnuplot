# SPDX-License-Identifier: GPL-2.0
# Run in results/BASE/bench, plots of the CSV there: sweep.png and wait.png. A kernel has
# one colour in all of them
set datafile separator ","
set terminal pngcairo size 900,540 font "sans,11"
set grid
set key left top

kernels = "unpatched 7.3 patched"
label(k) = k eq "7.3" ? "Linux 7.3" : k
colour(k) = k eq "unpatched" ? "#c44e52" : k eq "7.3" ? "#dd8452" : "#4c72b0"

# Of the rounds, quartiles of a column of the lines that meet a condition
quartiles(what, k, condition, x, y) = sprintf("<awk -F, '/^[0-9]/ && %s {print %s \",\" %s}' %s-%s.csv | sort -t, -k1,1n -k2,2g | awk -F, 'function out() {print x \",\" v[int((n + 3) / 4)] \",\" v[int((n + 1) / 2)] \",\" v[int((3 * n + 3) / 4)]} $1 != x && n {out(); n = 0} {x = $1; v[++n] = $2} END {if (n) out()}'", condition, x, y, what, k)

set output "sweep.png"
set title "A walk of KSM pages mapped 256 times in one process, 64 of them in turn (User Mode Linux)"
set logscale xy
set xlabel "VMAs in the anon\\_vma"
set ylabel "nanoseconds per mapping"
set xrange [0.8:30000]
set yrange [10:*]
plot for [k in kernels] quartiles("sweep", k, "$3 == 256", "$2", "$11") \
     using 1:3:2:4 with yerrorlines lw 2 lc rgb colour(k) title label(k)

# What share of the operations took longer than that
set output "wait.png"
set title "mprotect of an application with 2,000 VMAs, while its KSM pages are walked (User Mode Linux)"
unset logscale x
set xlabel "share of the operations, %"
set ylabel "take at most, microseconds"
set xrange [0.5:4.5]
set xtics ("50" 1, "99" 2, "99.9" 3, "all" 4)
each_of(k) = sprintf("<for i in 1 2 3 4; do awk -F, -v i=$i '$2 == 2000 && $12 == \"mprotect\" {print i \",\" $(13 + i) / 1000}' wait-%s.csv | sort -t, -k2,2g | awk -F, '{v[++n] = $2; x = $1} END {print x \",\" v[int((n + 3) / 4)] \",\" v[int((n + 1) / 2)] \",\" v[int((3 * n + 3) / 4)]}'; done", k)
plot for [k in kernels] each_of(k) \
     using 1:3:2:4 with yerrorlines lw 2 lc rgb colour(k) title label(k)
