# SPDX-License-Identifier: GPL-2.0
# Run in results/BASE/bench, plots of the CSV there: vmas.png, sharers.png, forks.png and
# latency.png
set datafile separator ","
set terminal pngcairo size 900,540 font "sans,11"
set grid
set key left top
set logscale xy
set format y "10^{%T}"
set ylabel "instructions"

kernels = "unpatched v4 7.3 patched"
label(i) = i == 1 ? "unpatched" : i == 2 ? "the idea of v4" : i == 3 ? "Linux 7.3" : "patched"

# Lines that meet a condition, as x and y
rows(k, condition, x) = sprintf("<awk -F, '/^[0-9]/ && %s && !$17 && !$21 {print %s \",\" $9}' walk-%s.csv | sort -n", condition, x, word(kernels, k))
limit(condition, x) = sprintf("<awk -F, '/^[0-9]/ && $2 == 1 && !$4 && %s {print %s \",\" $9}' walk-patched.csv | sort -n", condition, x)

set output "vmas.png"
set title "One rmap walk of a KSM page that is mapped 256 times in a process"
set xlabel "VMAs in the anon\\_vma"
set xrange [0.8:30000]
set yrange [50000:2e9]
least = system("awk -F, '$2 == 1 && $3 == 255 && !$4 {print $9}' walk-patched.csv") + 0
plot for [i=1:4] rows(i, "$2 == 256 && !$3", "$1") using 1:2 with linespoints lw 2 title label(i), \
     least with lines lw 2 dt 2 lc "black" title "an anonymous page, mapped as often"

set output "sharers.png"
set title "One rmap walk of a KSM page in a process of 20,000 VMAs"
set xlabel "mappings of the page"
set xrange [1.8:300]
set yrange [1000:2e9]
plot for [i=1:4] rows(i, "$1 == 20000 && !$3", "$2") using 1:2 with linespoints lw 2 title label(i), \
     limit("$5 <= 256", "$5") using 1:2 with points pt 7 lc "black" title "an anonymous page"

set output "forks.png"
set title "One rmap walk of a KSM page that is mapped twice, in a process of 2,000 VMAs, forked"
set xlabel "processes"
set xrange [0.9:120]
set yrange [1000:2e8]
plot for [i=1:4] rows(i, "$1 == 2000 && $2 == 2", "$3 + 1") using 1:2 with linespoints lw 2 title label(i), \
     limit("$5 > 1 && $5 <= 202", "$5 / 2") using 1:2 with points pt 7 lc "black" title "an anonymous page, mapped as often"

# Of each kernel, a line a round: what share of the operations took longer than that
set output "latency.png"
set title "mmap and munmap of an application, while a KSM page in 64 of its 2,000 VMAs is migrated (TCG)"
set xlabel "share of the operations, %"
set ylabel "take at most, ms"
set format y "%g"
unset logscale x
set xrange [0.5:4.5]
set yrange [0.01:*]
set xtics ("50" 1, "99" 2, "99.9" 3, "all" 4)
spread(k) = sprintf("<awk -F, '$1 == 2000 && $9 == \"migrate\" && $11 == \"mmap\" {print 1 \",\" $13; print 2 \",\" $14; print 3 \",\" $15; print 4 \",\" $16; print \"\"}' latency-%s.csv", k)
plot for [k in "unpatched 7.3 patched"] spread(k) using 1:($2/1e6) with linespoints lw 2 title k
