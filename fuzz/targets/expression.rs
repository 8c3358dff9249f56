#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| afterload_fuzz::evaluate_expression(data));
