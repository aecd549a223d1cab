//! The write-ahead log: its life, what damages it, full disks, crashes at any point.
#![forbid(unsafe_code)]

mod damage;
mod full;
mod life;
mod logs;
mod model;
mod writer;
