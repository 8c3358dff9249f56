//! Standard output as Unix tools write it: a reader that has seen enough is no error.

use std::io::{self, ErrorKind, Write};

/// Standard output. What is written after its reader has gone is dropped.
pub(super) type CliStdout = IgnoreBrokenPipe<io::Stdout>;

/// Standard output.
pub(super) fn cli_stdout() -> CliStdout {
    IgnoreBrokenPipe(io::stdout())
}

/// A writer that drops what is written after its reader has gone.
pub(super) struct IgnoreBrokenPipe<W>(W);

impl<W: Write> Write for IgnoreBrokenPipe<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(bytes.len()),
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0.flush() {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            flushed => flushed,
        }
    }
}

/// Prints a line, as `println!` does, but does not panic where nobody reads it.
macro_rules! print_line {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        drop(writeln!($crate::cli::stdout::cli_stdout(), $($text)*));
    }};
}
pub(super) use print_line;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_gone_is_no_error() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut out = IgnoreBrokenPipe(writer);
        writeln!(out, "nobody reads this").unwrap();
        out.flush().unwrap();
    }
}
