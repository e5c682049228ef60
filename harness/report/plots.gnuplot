# SPDX-License-Identifier: GPL-2.0
# Plots of sweep.dat and wait.dat in the folder `data`: medians with quartiles, a block a kernel
# (report bench --plot). A kernel has one colour in all of them
set terminal pngcairo size 900,540 font "sans,11"
set grid
set key left top
array names[3] = ["unpatched", "Linux 7.3", "patched"]
array colours[3] = ["#c44e52", "#dd8452", "#4c72b0"]

set output "sweep.png"
set title "A walk of KSM pages mapped 256 times in one process, 64 of them in turn (User Mode Linux)"
set logscale xy
set xlabel "VMAs in the anon\\_vma"
set ylabel "nanoseconds per mapping"
set xrange [0.8:30000]
set yrange [10:*]
plot for [i = 1:3] data."/sweep.dat" index i - 1 using 1:3:2:4 \
     with yerrorlines lw 2 lc rgb colours[i] title names[i]

# What share of the operations took longer than that
set output "wait.png"
set title "mprotect of an application with 2,000 VMAs, while its KSM pages are walked (User Mode Linux)"
unset logscale x
set xlabel "share of the operations, %"
set ylabel "take at most, microseconds"
set xrange [0.5:4.5]
set xtics ("50" 1, "99" 2, "99.9" 3, "all" 4)
plot for [i = 1:3] data."/wait.dat" index i - 1 using 1:3:2:4 \
     with yerrorlines lw 2 lc rgb colours[i] title names[i]
