//! Disks on real mounts, through the program as it is shipped. Needs root (mounts, loop devices) and `/dev/fuse`.
// A test ends where something is not as it should be, and its sizes are small.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod attributes;
mod bad_input;
mod contents;
mod cost;
mod damage;
mod dead_host;
mod disk;
mod file_systems;
mod full_host;
mod full_log;
mod hosts;
mod lifecycle;
mod mapped;
mod operations;
mod places;
mod real_file;
mod reclaim;
mod secrets;
mod slow_host;
mod space;
mod trace;
mod users;
mod volumes;
