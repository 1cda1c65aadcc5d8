# Sourced by run.sh: takes away what a killed test may have left under one run directory, and says what it was.
# shellcheck shell=bash

# Mounts of the run directory DIR, newest first, as "FSTYPE MOUNTPOINT".
mounts_under() {
    LC_ALL=C awk -v dir="$1/" 'index($5, dir) == 1 { for (i = 7; $i != "-"; i++); print $(i + 1), $5 }' /proc/self/mountinfo | tac
}

# Loop devices whose backing file lies in DIR.
loops_under() {
    local file
    for file in /sys/block/loop*/loop/backing_file; do
        [ -r "$file" ] || continue
        case $(cat "$file" 2>/dev/null) in "$1"/*) file=${file#/sys/block/}; echo "/dev/${file%%/*}" ;; esac
    done
}

# Processes, other than this shell, with DIR in their command line.
processes_under() {
    local proc pid
    for proc in /proc/[0-9]*; do
        pid=${proc#/proc/}
        [ "$pid" = "$$" ] || [ "$pid" = "$BASHPID" ] || [ ! -r "$proc/cmdline" ] && continue
        if tr '\0' ' ' 2>/dev/null <"$proc/cmdline" | grep -qF -- "$1/"; then echo "$pid"; fi
    done
}

# sweep DIR : order matters - file systems while their disks still answer, then loop devices, then the servers.
sweep() {
    local dir=$1 fstype point device pid found=0
    while read -r fstype point; do
        case $fstype in fuse*) continue ;; esac
        echo "left behind: $fstype mounted at $point"
        found=1
        as_root timeout 20 umount "$point" || as_root umount -l "$point"
    done < <(mounts_under "$dir")
    for device in $(loops_under "$dir"); do
        echo "left behind: loop device $device"
        found=1
        as_root losetup -d "$device"
    done
    for pid in $(processes_under "$dir"); do
        echo "left behind: process $pid: $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline")"
        found=1
        as_root kill -TERM "$pid" 2>/dev/null
        as_root timeout 10 tail --pid="$pid" -f /dev/null || as_root kill -KILL "$pid" 2>/dev/null
    done
    while read -r fstype point; do
        echo "left behind: $fstype mounted at $point"
        found=1
        as_root umount -l "$point"
    done < <(mounts_under "$dir")
    as_root rm -rf --one-file-system "$dir"
    return $found
}

# own_run DIR : the run in DIR is this shell's, for as long as it lives.
own_run() {
    echo "$$ $(readlink /proc/self/ns/pid)" >"$1/owner"
}

# sweep_dead_runs DIR : a run that was killed outright could not clean up; its owner is gone, so its things may go. What belongs to another
# user stays, and so does what was begun where processes have other numbers, such as in a container that shares DIR.
sweep_dead_runs() {
    local old pid namespace
    for old in "$1"/ecs-tests.*; do
        [ -O "$old" ] && [ ! -L "$old" ] && [ -f "$old/owner" ] || continue
        read -r pid namespace <"$old/owner" || continue
        [ "$namespace" = "$(readlink /proc/self/ns/pid)" ] && [ ! -e "/proc/$pid" ] || continue
        sweep "$old" || true
    done
}
