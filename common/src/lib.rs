//! The kernel ABI of dbwarden: records, limits and settings shared by the BPF programs and the agent.
#![no_std]
