//! `afterload ui`: makes a link and a code that sign in to the dashboard.

use std::io::Write;

use clap::Args;

use crate::config::Config;
use afterload_core::error::Result;
use afterload_dashboard::sign_in_url;
use afterload_server::api::create_sign_in_code;
use afterload_state::Db;

/// The short name of the scope for people who only look.
const READ_ALIAS: &str = "read";
const READ_SCOPE: &str = "runs:read";

/// Who signs in.
#[derive(Debug, Args)]
pub struct UiArgs {
    /// What the session may do: `admin`, `read` to only look, or the scopes of API keys such as `runs:write:NAME`; may be
    /// repeated.
    #[arg(long = "scope", default_value = "admin", value_name = "SCOPE")]
    pub scopes: Vec<String>,
}

/// Prints the link to `out`, so that other programs can open it, and the code to `notes`.
///
/// # Errors
/// `scope_invalid`, or an error of the database or of the terminal.
pub async fn run(config: &Config, db: &Db, args: &UiArgs, out: &mut impl Write, notes: &mut impl Write) -> Result<()> {
    let full_name = |scope: &String| match scope.as_str() {
        READ_ALIAS => READ_SCOPE.to_owned(),
        scope => scope.to_owned(),
    };
    let scopes: Vec<_> = args.scopes.iter().map(full_name).collect();
    let code = create_sign_in_code(db, &scopes).await?;
    let base_url = config.base_url();
    writeln!(out, "{}", sign_in_url(&base_url, &code))?;
    writeln!(
        notes,
        "The link works once and for five minutes. Without JavaScript, enter this code at {base_url}/ui/enter:"
    )?;
    writeln!(notes, "  {code}")?;
    Ok(())
}

/// The line about the dashboard that a process prints when it is up; `command` makes another link. On an address that
/// only this machine reaches, the line brings a link that signs in; elsewhere the output may be the log of many.
///
/// # Errors
/// An error of the database.
pub(super) async fn dashboard_line(config: &Config, url: &str, db: &Db, command: &str) -> Result<String> {
    if !config.listen.ip().is_loopback() {
        return Ok(format!("dashboard: {url}/ui/ (`{command}` makes a link that signs in)"));
    }
    let code = create_sign_in_code(db, &["admin".to_owned()]).await?;
    let link = sign_in_url(url, &code);
    Ok(format!("dashboard: {link} (works once, for five minutes; `{command}` makes another)"))
}

#[cfg(test)]
mod tests {
    use afterload_core::clock::Clock;
    use afterload_server::api::exchange_sign_in_code;

    use super::*;
    use crate::codes;

    #[tokio::test]
    async fn the_link_and_the_code_sign_in() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("a.db").display());
        let db = Db::open(&url, Clock::system()).await.unwrap();
        let config = Config { public_url: Some("https://files.example.org/".into()), ..Config::default() };
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        let args = UiArgs { scopes: vec![READ_ALIAS.to_owned()] };
        run(&config, &db, &args, &mut out, &mut notes).await.unwrap();
        let (out, notes) = (String::from_utf8(out).unwrap(), String::from_utf8(notes).unwrap());
        let code = out.trim_end().strip_prefix("https://files.example.org/ui/enter#").unwrap();
        assert!(notes.contains(&format!("\n  {code}\n")), "{notes}");
        assert!(exchange_sign_in_code(&db, code).await.unwrap().starts_with("als_"));

        let wrong = UiArgs { scopes: vec!["everything".into()] };
        let refused = run(&config, &db, &wrong, &mut Vec::<u8>::new(), &mut Vec::<u8>::new()).await.unwrap_err();
        assert_eq!(refused.code(), codes::SCOPE_INVALID);
    }

    #[tokio::test]
    async fn only_this_machine_sees_a_link_in_the_output_of_a_service() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("a.db").display());
        let db = Db::open(&url, Clock::system()).await.unwrap();
        let line = async |listen: &str| {
            let config = Config { listen: listen.parse().unwrap(), ..Config::default() };
            dashboard_line(&config, "http://a", &db, "afterload ui").await.unwrap()
        };
        assert!(line("127.0.0.1:8080").await.starts_with("dashboard: http://a/ui/enter#"));
        assert_eq!(line("0.0.0.0:8080").await, "dashboard: http://a/ui/ (`afterload ui` makes a link that signs in)");
    }
}
