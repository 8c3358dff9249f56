#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| afterload_fuzz::read_bounce_report(data));
