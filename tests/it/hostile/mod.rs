//! Hostile callers: what a key may not do, guesses, forged addresses, and requests that no client would send.

mod brute_force;
mod contract;
mod fuzz_targets;
mod proxy;
mod scopes;
