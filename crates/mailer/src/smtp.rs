//! SMTP: connections that are kept for the next mail, and what the server's answers mean.
//!
//! Each exchange is made here, one by one, rather than by a transport that does all of them: only so is it known whether a
//! connection broke before the server could have taken the mail, or when it may have.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lettre::address::Envelope;
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt, Rset};
use lettre::transport::smtp::extension::ClientId;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::NotSent;
use super::config::{SmtpConfig, SmtpTls};
use afterload_core::error::{Error, Result};

/// How long a connection without work is kept. Servers close theirs after some minutes.
const IDLE: Duration = Duration::from_secs(30);
/// What remains of an answer of the server that is shown to people.
const LONGEST_ANSWER: usize = 300;

/// A server that takes our mail.
pub(super) struct Smtp {
    config: SmtpConfig,
    tls: Option<TlsParameters>,
    hello: ClientId,
    room: Semaphore,
    idle: Mutex<Vec<(AsyncSmtpConnection, Instant)>>,
}

/// Where a conversation was when it ended badly.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    SigningIn,
    Sender,
    Recipient,
    /// From here on the server may have the mail.
    Content,
}

impl Smtp {
    /// Prepares everything; connects to nothing.
    ///
    /// # Errors
    /// `mail_tls_failed` if the certificates in `ca` cannot be read.
    pub(super) fn new(config: &SmtpConfig) -> Result<Self> {
        let tls = match config.tls {
            SmtpTls::None => None,
            SmtpTls::Starttls | SmtpTls::Implicit => Some(parameters(config)?),
        };
        Ok(Self {
            tls,
            hello: ClientId::default(),
            room: Semaphore::new(config.connections.clamp(1, 100)),
            idle: Mutex::default(),
            config: config.clone(),
        })
    }

    /// Hands a message over.
    pub(super) async fn deliver(&self, envelope: &Envelope, message: &[u8]) -> Result<(), NotSent> {
        let _room = self.room.acquire().await.map_err(|_| NotSent::Certain(self.unavailable("it is closed")))?;
        let mut connection = match self.waiting().await {
            Some(connection) => connection,
            None => self.connect().await.map_err(NotSent::Certain)?,
        };
        let sent = self.converse(&mut connection, envelope, message).await;
        let answered = match &sent {
            Ok(()) => true,
            // The server has said no and goes on listening.
            Err((_, Some(error))) if error.status().is_some() => {
                self.timed(connection.command(Rset)).await.is_ok_and(|reset| reset.is_ok())
            }
            Err(_) => false,
        };
        if answered && !connection.has_broken() {
            self.lock().push((connection, Instant::now()));
        }
        sent.map_err(|(stage, error)| {
            let recipient = envelope.to().first().map(ToString::to_string).unwrap_or_default();
            let answered = error.as_ref().is_some_and(|error| error.status().is_some());
            let error = self.meaning(stage, error, &recipient);
            if stage == Stage::Content && !answered { NotSent::Uncertain(error) } else { NotSent::Certain(error) }
        })
    }

    async fn converse(
        &self,
        connection: &mut AsyncSmtpConnection,
        envelope: &Envelope,
        message: &[u8],
    ) -> std::result::Result<(), (Stage, Option<SmtpError>)> {
        let sender = Mail::new(envelope.from().cloned(), Vec::new());
        self.step(Stage::Sender, connection.command(sender)).await?;
        for recipient in envelope.to() {
            self.step(Stage::Recipient, connection.command(Rcpt::new(recipient.clone(), Vec::new()))).await?;
        }
        self.step(Stage::Sender, connection.command(Data)).await?;
        self.step(Stage::Content, connection.message(message)).await
    }

    /// No error: it took too long.
    async fn step<T>(
        &self,
        stage: Stage,
        work: impl Future<Output = std::result::Result<T, SmtpError>>,
    ) -> std::result::Result<(), (Stage, Option<SmtpError>)> {
        match self.timed(work).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err((stage, Some(error))),
            Err(_) => Err((stage, None)),
        }
    }

    async fn timed<T>(&self, work: impl Future<Output = T>) -> std::result::Result<T, tokio::time::error::Elapsed> {
        tokio::time::timeout(self.config.timeout.0, work).await
    }

    /// A connection that is still good.
    async fn waiting(&self) -> Option<AsyncSmtpConnection> {
        loop {
            let (mut connection, since) = self.lock().pop()?;
            if since.elapsed() < IDLE && self.timed(connection.test_connected()).await.unwrap_or(false) {
                return Some(connection);
            }
        }
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection> {
        let told = |stage, error| self.meaning(stage, error, "");
        let mut connection = self.timed(self.reach()).await.map_err(|_| told(Stage::Connecting, None))??;
        if let (SmtpTls::Starttls, Some(tls)) = (self.config.tls, &self.tls) {
            if !connection.can_starttls() {
                let message = format!("{} does not offer STARTTLS", self.place());
                return Err(Error::permanent("mail_tls_failed", message)
                    .hint("set `mail.smtp.tls` to `implicit` if it expects TLS from the start"));
            }
            self.step(Stage::Connecting, connection.starttls(tls.clone(), &self.hello))
                .await
                .map_err(|(stage, error)| told(stage, error))?;
        }
        if let (Some(user), Some(password)) = (&self.config.user, &self.config.password) {
            let credentials = Credentials::new(user.clone(), password.reveal().to_owned());
            self.step(Stage::SigningIn, connection.auth(&[Mechanism::Plain, Mechanism::Login], &credentials))
                .await
                .map_err(|(stage, error)| told(stage, error))?;
        }
        Ok(connection)
    }

    /// A connection that has been greeted, with TLS if that comes from the start.
    async fn reach(&self) -> Result<AsyncSmtpConnection> {
        let told = |error| self.meaning(Stage::Connecting, Some(error), "");
        let address = (self.config.host.as_str(), self.config.port());
        if let (SmtpTls::Implicit, Some(tls)) = (self.config.tls, self.tls.clone()) {
            let timeout = Some(self.config.timeout.0);
            let connected = AsyncSmtpConnection::connect_tokio1(address, timeout, &self.hello, Some(tls), None);
            return connected.await.map_err(told);
        }
        // The end of a text is written by itself. Unless it may leave at once, each mail waits the 40 ms that the other side
        // takes to confirm the text.
        let stream = TcpStream::connect(address).await.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        let stream = stream.map_err(|error| self.unavailable(&error.to_string()))?;
        AsyncSmtpConnection::connect_with_transport(Box::new(stream), &self.hello).await.map_err(told)
    }

    /// What an answer, or the lack of one, means to whoever wants to send. No error: it took too long.
    fn meaning(&self, stage: Stage, error: Option<SmtpError>, recipient: &str) -> Error {
        let place = self.place();
        let Some(error) = error else {
            let waited = self.config.timeout;
            return match stage {
                Stage::Content => self.lost(format!("{place} did not say within {waited} whether it took the mail")),
                _ => self.unavailable(&format!("it did not answer within {waited}")),
            };
        };
        let said = said(&error);
        match (stage, error.is_transient(), error.is_permanent()) {
            (Stage::SigningIn, false, _) if error.is_permanent() || error.is_client() => {
                Error::permanent("mail_auth_failed", format!("{place} does not let us in: {said}"))
                    .hint("check `mail.smtp.user` and `mail.smtp.password`")
            }
            (_, true, _) => Error::transient("mail_deferred", format!("{place} put the mail off: {said}")),
            (Stage::Recipient, _, true) => {
                let message = format!("{place} does not take mail for `{recipient}`: {said}");
                Error::permanent("mail_recipient_refused", message)
            }
            (_, _, true) => Error::permanent("mail_refused", format!("{place} refused the mail: {said}")),
            (Stage::Connecting, ..) if is_tls(&error) => {
                Error::permanent("mail_tls_failed", format!("no safe connection to {place}: {said}"))
                    .hint("name the file of the authority that signed its certificate in `mail.smtp.ca`, and the host as the certificate does")
            }
            (Stage::Content, ..) => self.lost(format!("the connection to {place} broke while it took the mail: {said}")),
            _ => self.unavailable(&said),
        }
    }

    fn lost(&self, message: String) -> Error {
        Error::transient("mail_outcome_unknown", message)
    }

    fn unavailable(&self, why: &str) -> Error {
        Error::transient("mail_server_unavailable", format!("cannot send through {}: {why}", self.place()))
    }

    fn place(&self) -> String {
        format!("the mail server {}:{}", self.config.host, self.config.port())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(AsyncSmtpConnection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parameters(config: &SmtpConfig) -> Result<TlsParameters> {
    let failed = |why: String| {
        Error::permanent("mail_tls_failed", format!("`mail.smtp` cannot use TLS: {why}"))
            .hint("`ca` is a file with one or more certificates in PEM form")
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

/// What the server said, or what the system says of the connection: one line, not too long.
fn said(error: &SmtpError) -> String {
    let mut texts = vec![error.to_string()];
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let text = inner.to_string();
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        source = inner.source();
    }
    super::one_line(&texts.join(": ")).chars().take(LONGEST_ANSWER).collect()
}

/// The library tells a failed handshake as a failed connection, with data that is not valid as the system's reason.
fn is_tls(error: &SmtpError) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::InvalidData) {
            return true;
        }
        source = inner.source();
    }
    error.is_tls()
}
