//! The `afterload` binary; see [`afterload::cli`].

fn main() -> std::process::ExitCode {
    give_memory_back();
    afterload::cli::main()
}

/// Makes glibc return large buffers, such as the parts of an upload, to the system as soon as they are free. Left alone it
/// raises its idea of "large" with the first one, and keeps all that follow: 40 MB after an upload of 100 MB.
fn give_memory_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[expect(unsafe_code, reason = "the C library has no other way to set this")]
        // SAFETY: it only sets a number, and no other thread runs yet.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
        }
    }
}
