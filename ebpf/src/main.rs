//! The BPF programs of dbwarden.
#![no_std]
#![no_main]
