//! Standard output that ignores broken pipes, as Unix tools do: a reader may stop early.

use std::io::{self, ErrorKind, Write};

use annotate_snippets::Renderer;
use anstream::{AutoStream, ColorChoice};

/// Longer lines are cut around the problem.
const MAX_LINE_CHARS: usize = 120;

/// Standard output. Writes after its reader has closed are dropped.
pub(super) type CliStdout = IgnoreBrokenPipe<io::Stdout>;

pub(super) fn cli_stdout() -> CliStdout {
    IgnoreBrokenPipe(io::stdout())
}

/// Draws diagnostics for standard output: in color on a terminal, unless `NO_COLOR` or `TERM=dumb` forbids it.
pub(super) fn cli_renderer() -> Renderer {
    let renderer = match AutoStream::choice(&io::stdout()) {
        ColorChoice::Never => Renderer::plain(),
        _ => Renderer::styled(),
    };
    renderer.term_width(MAX_LINE_CHARS)
}

/// A writer that drops output after its reader has closed.
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

/// Prints a line like `println!`, but does not panic if the reader has closed.
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
    fn a_broken_pipe_is_no_error() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut out = IgnoreBrokenPipe(writer);
        writeln!(out, "nobody reads this").unwrap();
        out.flush().unwrap();
    }
}
