//! A folder of `.eml` files, for development without a mail server. Any mail program opens them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{MailAddress, MailSendError, MessageId};
use crate::codes;
use afterload_core::error::Error;

/// The outbox folder. The Message-ID names the file, so a repeated attempt replaces its own file and no other.
pub(super) struct MailOutbox {
    folder: PathBuf,
}

impl MailOutbox {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Writes the message completely or not at all. `X-Envelope-To` names the recipient of this copy, which no other
    /// header does for blind copies.
    pub(super) async fn write_message(
        &self,
        id: &MessageId,
        recipient: &MailAddress,
        message: &[u8],
    ) -> Result<(), MailSendError> {
        let path = self.folder.join(format!("{}.eml", id.local_part()));
        let bytes = [format!("X-Envelope-To: {recipient}\r\n").as_bytes(), message].concat();
        let written = tokio::task::spawn_blocking(move || {
            write_atomically(&path, &bytes)
                .map_err(|error| Error::from(error).context(format!("writing `{}`", path.display())))
        });
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(MailSendError::NotSent(error)),
            Err(error) => Err(MailSendError::Unknown(Error::new(codes::MAIL_OUTBOX_FAILED, error.to_string()))),
        }
    }
}

/// Writes a temporary file and renames it: a reader never sees half a mail, not even after a power failure.
fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let temp = path.with_extension(format!("{}.tmp", ulid::Ulid::generate()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&temp)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temp, path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        // Best effort: a leftover file does not end in `.eml`, so nothing reads it.
        let _ = fs::remove_file(&temp);
    }
    written
}
