//! Resources that the machine lacks: open files, disk space, memory. Errors of the system name them, often deep inside
//! of other errors.

use std::error::Error;
use std::io::{self, ErrorKind};

use crate::codes;
use crate::error_code::ErrorCode;

/// SQLite's primary result codes.
const SQLITE_NOMEM: u32 = 7;
const SQLITE_FULL: u32 = 13;
const SQLITE_CANTOPEN: u32 = 14;
/// An extended code of IOERR.
const SQLITE_IOERR_NOMEM: u32 = 10 | (12 << 8);

/// The code of the lacking resource, if that is a cause of this error.
pub fn find_code(error: &(dyn Error + 'static)) -> Option<ErrorCode> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(code) = error.downcast_ref::<io::Error>().and_then(io_code) {
            return Some(code);
        }
        cause = error.source();
    }
    None
}

fn io_code(error: &io::Error) -> Option<ErrorCode> {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => return Some(codes::TOO_MANY_OPEN_FILES),
        Some(libc::ENOSPC | libc::EDQUOT) => return Some(codes::DISK_FULL),
        Some(libc::ENOMEM | libc::ENOBUFS) => return Some(codes::OUT_OF_MEMORY),
        _ => {}
    }
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(codes::DISK_FULL),
        ErrorKind::OutOfMemory => Some(codes::OUT_OF_MEMORY),
        // `source` of an error that wraps another one skips that one.
        _ => error.get_ref().and_then(|inner| find_code(inner)),
    }
}

/// The same for a result code of SQLite.
pub fn sqlite_code(code: u32) -> Option<ErrorCode> {
    match (code, code & 0xff) {
        (_, SQLITE_FULL) => Some(codes::DISK_FULL),
        (_, SQLITE_NOMEM) | (SQLITE_IOERR_NOMEM, _) => Some(codes::OUT_OF_MEMORY),
        (_, SQLITE_CANTOPEN) => find_open_shortage(),
        _ => None,
    }
}

/// SQLite does not say why it cannot open a file. Another open tells whether open files are the reason.
fn find_open_shortage() -> Option<ErrorCode> {
    io_code(&std::fs::File::open("/dev/null").err()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error as CoreError;

    #[derive(Debug)]
    struct Wrapper(io::Error);

    impl std::fmt::Display for Wrapper {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("something failed")
        }
    }

    impl Error for Wrapper {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn shortages_are_found_at_any_depth() {
        let cases = [
            (libc::EMFILE, "too_many_open_files"),
            (libc::ENFILE, "too_many_open_files"),
            (libc::ENOSPC, "disk_full"),
            (libc::EDQUOT, "disk_full"),
            (libc::ENOMEM, "out_of_memory"),
        ];
        for (number, code) in cases {
            let error = || io::Error::from_raw_os_error(number);
            let plain = CoreError::from(error());
            assert_eq!((plain.code().name(), plain.is_shortage(), plain.is_transient()), (code, true, true));
            assert_eq!(find_code(&Wrapper(error())).unwrap().name(), code);
            assert_eq!(find_code(&io::Error::other(Wrapper(io::Error::other(error())))).unwrap().name(), code);
            assert_eq!(CoreError::from(sqlx::Error::Io(error())).code().name(), code);
        }
        assert_eq!(find_code(&Wrapper(io::Error::from(ErrorKind::NotFound))), None);
        assert!(!CoreError::from(io::Error::from(ErrorKind::ConnectionReset)).is_shortage());
    }

    #[test]
    fn sqlite_names_disk_and_memory() {
        assert_eq!(sqlite_code(13), Some(codes::DISK_FULL));
        assert_eq!(sqlite_code(3082), Some(codes::OUT_OF_MEMORY));
        assert_eq!((sqlite_code(5), sqlite_code(14)), (None, None), "a missing file is no shortage");
    }
}
