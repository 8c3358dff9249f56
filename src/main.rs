//! The `afterload` binary.

fn main() {}
