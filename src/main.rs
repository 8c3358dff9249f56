//! The `afterload` binary; see [`afterload::cli`].

fn main() -> std::process::ExitCode {
    afterload::cli::main()
}
