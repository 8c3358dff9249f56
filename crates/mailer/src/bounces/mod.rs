//! Reports about mails that came back, and complaints: standard messages of mail servers, and webhooks of providers.
//!
//! A new provider is one more file here, and one more line in `provider.rs`.

mod delivery_status;
mod mailgun;
mod message_parts;
mod postmark;
mod provider;
mod report;
mod sendgrid;
mod ses;

pub use delivery_status::parse_report_message;
pub use provider::parse_provider_report;
pub use report::{BounceKind, BounceReport, ParsedBounces, SnsConfirmation};
pub use ses::is_topic_validation;
