//! An SMTP client with connection reuse.
//!
//! It runs each command itself instead of using lettre's transport: only then is it known whether the connection broke
//! before the server could have accepted the mail, or after.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lettre::address::Envelope;
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt, Rset};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::MailSendError;
use super::config::{SmtpConfig, SmtpTls};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::shortage;

/// How long an idle connection is kept. Servers close theirs after some minutes.
const SMTP_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The length to which server replies are cut in messages.
const MAX_REPLY_CHARS: usize = 300;

/// Sends mail through one SMTP server.
pub(super) struct SmtpClient {
    config: SmtpConfig,
    tls: Option<TlsParameters>,
    client_id: ClientId,
    connection_permits: Semaphore,
    idle: Mutex<Vec<(AsyncSmtpConnection, Instant)>>,
}

/// The stage of a session in which it failed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SmtpStage {
    Connecting,
    Authenticating,
    Sender,
    Recipient,
    /// From this stage on, the server may have accepted the mail.
    Content,
}

impl SmtpClient {
    /// Creates a client. It does not connect yet.
    ///
    /// # Errors
    /// `mail_tls_failed` if the certificates in `ca` cannot be read.
    pub(super) fn new(config: &SmtpConfig) -> Result<Self> {
        let tls = match config.tls {
            SmtpTls::None => None,
            SmtpTls::Starttls | SmtpTls::Implicit => Some(tls_parameters(config)?),
        };
        Ok(Self {
            tls,
            client_id: ClientId::default(),
            connection_permits: Semaphore::new(config.connections.clamp(1, 100)),
            idle: Mutex::default(),
            config: config.clone(),
        })
    }

    /// Sends a message. `smtputf8` says that its addresses need a server with that extension.
    pub(super) async fn send_message(
        &self,
        envelope: &Envelope,
        message: &[u8],
        smtputf8: bool,
    ) -> Result<(), MailSendError> {
        let _room = self
            .connection_permits
            .acquire()
            .await
            .map_err(|_| MailSendError::NotSent(self.server_unavailable("it is closed")))?;
        let mut connection = match self.take_idle_connection().await {
            Some(connection) => connection,
            None => self.open_session().await.map_err(MailSendError::NotSent)?,
        };
        let mut parameters = Vec::new();
        if smtputf8 {
            let server = connection.server_info();
            if !server.supports_feature(Extension::SmtpUtfEight) {
                self.lock_idle().push((connection, Instant::now()));
                let message = format!("{} does not offer SMTPUTF8, which an address needs", self.server_label());
                return Err(MailSendError::NotSent(Error::new(codes::MAIL_SMTPUTF8_UNSUPPORTED, message)));
            }
            parameters.push(MailParameter::SmtpUtfEight);
            if server.supports_feature(Extension::EightBitMime) {
                parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
            }
        }
        let sender = Mail::new(envelope.from().cloned(), parameters);
        let sent = self.transact(&mut connection, sender, envelope, message).await;
        let answered = match &sent {
            Ok(()) => true,
            // The server rejected the mail but the session is intact: reset it for the next mail.
            Err((_, Some(error))) if error.status().is_some() => {
                self.with_timeout(connection.command(Rset)).await.is_ok_and(|reset| reset.is_ok())
            }
            Err(_) => false,
        };
        if answered && !connection.has_broken() {
            self.lock_idle().push((connection, Instant::now()));
        }
        sent.map_err(|(stage, error)| {
            let recipient = envelope.to().first().map(ToString::to_string).unwrap_or_default();
            let answered = error.as_ref().is_some_and(|error| error.status().is_some());
            let error = self.classify_reply(stage, error, &recipient);
            if stage == SmtpStage::Content && !answered {
                MailSendError::Unknown(error)
            } else {
                MailSendError::NotSent(error)
            }
        })
    }

    async fn transact(
        &self,
        connection: &mut AsyncSmtpConnection,
        sender: Mail,
        envelope: &Envelope,
        message: &[u8],
    ) -> std::result::Result<(), (SmtpStage, Option<SmtpError>)> {
        self.run_command(SmtpStage::Sender, connection.command(sender)).await?;
        for recipient in envelope.to() {
            self.run_command(SmtpStage::Recipient, connection.command(Rcpt::new(recipient.clone(), Vec::new())))
                .await?;
        }
        self.run_command(SmtpStage::Sender, connection.command(Data)).await?;
        self.run_command(SmtpStage::Content, connection.message(message)).await
    }

    /// Runs one command within the timeout. An error of `None` means that it timed out.
    async fn run_command<T>(
        &self,
        stage: SmtpStage,
        work: impl Future<Output = std::result::Result<T, SmtpError>>,
    ) -> std::result::Result<(), (SmtpStage, Option<SmtpError>)> {
        match self.with_timeout(work).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err((stage, Some(error))),
            Err(_) => Err((stage, None)),
        }
    }

    async fn with_timeout<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> std::result::Result<T, tokio::time::error::Elapsed> {
        tokio::time::timeout(self.config.timeout.0, work).await
    }

    /// Takes an idle connection that still works.
    async fn take_idle_connection(&self) -> Option<AsyncSmtpConnection> {
        loop {
            let (mut connection, since) = self.lock_idle().pop()?;
            if since.elapsed() < SMTP_IDLE_TIMEOUT
                && self.with_timeout(connection.test_connected()).await.unwrap_or(false)
            {
                return Some(connection);
            }
        }
    }

    async fn open_session(&self) -> Result<AsyncSmtpConnection> {
        let classify = |stage, error| self.classify_reply(stage, error, "");
        let mut connection =
            self.with_timeout(self.open_connection()).await.map_err(|_| classify(SmtpStage::Connecting, None))??;
        if let (SmtpTls::Starttls, Some(tls)) = (self.config.tls, &self.tls) {
            if !connection.can_starttls() {
                let message = format!("{} does not offer STARTTLS", self.server_label());
                return Err(Error::new(codes::MAIL_TLS_FAILED, message)
                    .with_hint("set `mail.smtp.tls` to `implicit` if it expects TLS from the start"));
            }
            self.run_command(SmtpStage::Connecting, connection.starttls(tls.clone(), &self.client_id))
                .await
                .map_err(|(stage, error)| classify(stage, error))?;
        }
        if let (Some(user), Some(password)) = (&self.config.user, &self.config.password) {
            let credentials = Credentials::new(user.clone(), password.expose_secret().to_owned());
            self.run_command(
                SmtpStage::Authenticating,
                connection.auth(&[Mechanism::Plain, Mechanism::Login], &credentials),
            )
            .await
            .map_err(|(stage, error)| classify(stage, error))?;
        }
        Ok(connection)
    }

    /// Opens a connection and reads the greeting, with TLS first if it is implicit.
    async fn open_connection(&self) -> Result<AsyncSmtpConnection> {
        let classify = |error| self.classify_reply(SmtpStage::Connecting, Some(error), "");
        let address = (self.config.host.as_str(), self.config.effective_port());
        if let (SmtpTls::Implicit, Some(tls)) = (self.config.tls, self.tls.clone()) {
            let timeout = Some(self.config.timeout.0);
            let connected = AsyncSmtpConnection::connect_tokio1(address, timeout, &self.client_id, Some(tls), None);
            return connected.await.map_err(classify);
        }
        // lettre writes the end of a message separately. Without `TCP_NODELAY` each mail waits the 40 ms of the
        // server's delayed acknowledgement.
        let stream = TcpStream::connect(address).await.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        let stream = stream.map_err(|error| match shortage::find_code(&error) {
            Some(code) => Error::new(code, format!("cannot send through {}: {error}", self.server_label())),
            None => self.server_unavailable(&error.to_string()),
        })?;
        AsyncSmtpConnection::connect_with_transport(Box::new(stream), &self.client_id).await.map_err(classify)
    }

    /// Maps a server reply, or a missing one, to an error. `error` is `None` after a timeout.
    fn classify_reply(&self, stage: SmtpStage, error: Option<SmtpError>, recipient: &str) -> Error {
        let place = self.server_label();
        let Some(error) = error else {
            let waited = self.config.timeout;
            return match stage {
                SmtpStage::Content => {
                    self.outcome_unknown(format!("{place} did not say within {waited} whether it took the mail"))
                }
                _ => self.server_unavailable(&format!("it did not answer within {waited}")),
            };
        };
        let said = reply_text(&error);
        // Only before the connection: later the server may have taken the mail.
        if let (SmtpStage::Connecting, Some(code)) = (&stage, shortage::find_code(&error)) {
            return Error::new(code, format!("cannot send through {place}: {said}"));
        }
        match (stage, error.is_transient(), error.is_permanent()) {
            (SmtpStage::Authenticating, false, _) if error.is_permanent() || error.is_client() => {
                Error::new(codes::MAIL_AUTH_FAILED, format!("{place} does not let us in: {said}"))
            }
            (_, true, _) => Error::new(codes::MAIL_DEFERRED, format!("{place} put the mail off: {said}")),
            (SmtpStage::Recipient, _, true) => {
                let message = format!("{place} does not take mail for `{recipient}`: {said}");
                Error::new(codes::MAIL_RECIPIENT_REFUSED, message)
            }
            (_, _, true) => Error::new(codes::MAIL_REFUSED, format!("{place} refused the mail: {said}")),
            (SmtpStage::Connecting, ..) if is_tls_error(&error) => {
                Error::new(codes::MAIL_TLS_FAILED, format!("no safe connection to {place}: {said}"))
                    .with_hint("name the file of the authority that signed its certificate in `mail.smtp.ca`, and the host as the certificate does")
            }
            (SmtpStage::Content, ..) => self.outcome_unknown(format!("the connection to {place} broke while it took the mail: {said}")),
            _ => self.server_unavailable(&said),
        }
    }

    fn outcome_unknown(&self, message: String) -> Error {
        Error::new(codes::MAIL_OUTCOME_UNKNOWN, message)
    }

    fn server_unavailable(&self, why: &str) -> Error {
        Error::new(codes::MAIL_SERVER_UNAVAILABLE, format!("cannot send through {}: {why}", self.server_label()))
    }

    fn server_label(&self) -> String {
        format!("the mail server {}:{}", self.config.host, self.config.effective_port())
    }

    fn lock_idle(&self) -> std::sync::MutexGuard<'_, Vec<(AsyncSmtpConnection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tls_parameters(config: &SmtpConfig) -> Result<TlsParameters> {
    let failed = |why: String| {
        Error::new(codes::MAIL_TLS_FAILED, format!("`mail.smtp` cannot use TLS: {why}"))
            .with_hint("`ca` is a file with one or more certificates in PEM form")
    };
    let mut builder = TlsParameters::builder(config.host.clone());
    if let Some(path) = &config.ca {
        let unreadable = |why: String| failed(format!("`{}`: {why}", path.display()));
        let pem = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
        let certificate = Certificate::from_pem(&pem).map_err(|error| unreadable(error.to_string()))?;
        builder = builder.add_root_certificate(certificate);
    }
    builder.build_rustls().map_err(|error| failed(error.to_string()))
}

/// The reply of the server, or the system's error, as one line of limited length.
fn reply_text(error: &SmtpError) -> String {
    let mut texts = vec![error.to_string()];
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let text = inner.to_string();
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        source = inner.source();
    }
    super::to_single_line(&texts.join(": ")).chars().take(MAX_REPLY_CHARS).collect()
}

/// True for a failed TLS handshake. lettre reports it as a connection error whose source has the kind `InvalidData`.
fn is_tls_error(error: &SmtpError) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::InvalidData) {
            return true;
        }
        source = inner.source();
    }
    error.is_tls()
}
