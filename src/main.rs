//! The `afterload` binary; see [`afterload::cli`].

fn main() -> std::process::ExitCode {
    give_memory_back();
    afterload::cli::main()
}

/// How often free memory goes back to the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TRIM_INTERVAL: std::time::Duration = std::time::Duration::from_secs(20);

/// Makes glibc return memory to the system. Large buffers, such as the parts of an upload, are unmapped at once: by
/// default glibc raises its threshold with the first one and keeps the following ones (40 MB after an upload of 100
/// MB). Threads share two heaps instead of one each (saves 5 MB in an import, at the same speed). What many small
/// buffers leave between others that live goes back only when glibc is told to look: it kept hundreds of megabytes
/// after 50 uploads side by side. A look takes about a millisecond.
fn give_memory_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[expect(unsafe_code, reason = "the C library has no other way to set this")]
        // SAFETY: it only sets numbers, and no other thread runs yet.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
            libc::mallopt(libc::M_ARENA_MAX, 2);
        }
        let trim = || loop {
            std::thread::park_timeout(TRIM_INTERVAL);
            #[expect(unsafe_code, reason = "the C library has no other way to return memory")]
            // SAFETY: it may be called at any time from any thread.
            unsafe {
                libc::malloc_trim(0);
            }
        };
        // Without the thread, memory only goes back later.
        let _ = std::thread::Builder::new().name("malloc-trim".to_owned()).stack_size(64 << 10).spawn(trim);
    }
}
