//! A folder of `.eml` files: mail on a laptop, where nothing else is installed. Any mail program opens one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{MailAddress, MailSendError, MessageId};
use crate::codes;
use afterload_core::error::Error;

/// The folder. A mail's file is named by its Message-ID alone, so a repeated attempt replaces its own file and no other.
pub(super) struct MailOutbox {
    folder: PathBuf,
}

impl MailOutbox {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Writes the message whole or not at all. `X-Envelope-To` says for whom this copy is, which for blind copies no
    /// other header does.
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

/// Beside the place first, then onto it: a reader of the folder never sees half a mail, and a power cut leaves none.
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
        // Best effort; a leftover does not end in `.eml` and hurts nobody.
        let _ = fs::remove_file(&temp);
    }
    written
}
