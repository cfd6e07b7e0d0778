//! `[alerts]`: who is told of alerts, and by which way. What nobody else is to see are secrets of the host, by name.

use super::{
    table::Table,
    value::{self, Wrong},
};

/// The password of `smtp_user`.
pub const SMTP_PASSWORD: &str = "smtp-password";
/// The address of Slack's incoming webhook, which is all that it takes to write there.
pub const SLACK_URL: &str = "slack-url";
/// An access token of ntfy, for topics that need one.
pub const NTFY_TOKEN: &str = "ntfy-token";
/// A bearer token for the webhook, if it wants one.
pub const WEBHOOK_TOKEN: &str = "webhook-token";

/// Who is told of alerts. Nothing at all is fine: they are shown, and sent to nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alerts {
    /// Mail for this address.
    pub email: Option<Email>,
    /// Messages in this channel of Slack.
    pub slack: Option<String>,
    /// Messages for this topic of ntfy, by its URL.
    pub ntfy: Option<String>,
    /// Alertmanager's own JSON, posted to this URL.
    pub webhook: Option<String>,
    /// Asked once a minute as long as alerts work, so that somebody elsewhere notices when they do not.
    pub watchdog: Option<String>,
}

/// Mail, and who brings it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email {
    /// For whom.
    pub to: String,
    /// In whose name.
    pub from: String,
    /// The mail server, as `smtp.example.com:587`.
    pub smtp: String,
    /// Who logs in there; `None`: nobody has to.
    pub user: Option<String>,
}

pub(super) fn read(mut table: Table<'_, '_>, alerts: &mut Alerts) {
    let (mut to, mut from, mut smtp, mut user): (Option<String>, Option<String>, Option<String>, Option<String>) =
        (None, None, None, None);
    table.text("email", &mut to, value::mailbox);
    table.text("email_from", &mut from, value::mailbox);
    table.text("smtp", &mut smtp, value::host_and_port);
    table.text("smtp_user", &mut user, value::login);
    table.text("slack", &mut alerts.slack, value::channel);
    table.text("ntfy", &mut alerts.ntfy, value::url);
    table.text("webhook", &mut alerts.webhook, value::url);
    table.text("watchdog", &mut alerts.watchdog, value::url);
    match (to, smtp) {
        (Some(to), Some(smtp)) => {
            alerts.email = Some(Email { from: from.unwrap_or_else(|| to.clone()), to, smtp, user });
        }
        (Some(_), None) => {
            miss(&mut table, "email", "smtp", "the mail server, such as `smtp = \"smtp.example.com:587\"`")
        }
        (None, Some(_)) => miss(&mut table, "smtp", "email", "for whom mail is, such as `email = \"me@example.com\"`"),
        (None, None) => {}
    }
}

/// One of two keys stands alone.
fn miss(table: &mut Table<'_, '_>, written: &'static str, missing: &'static str, help: &str) {
    if let (Some(span), false) = (table.written(written), table.refused(missing)) {
        table.fault(span, Wrong::new(format!("`{written}` needs `{missing}`"), format!("write {help}")));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Settings;

    fn read(text: &str) -> Result<super::Alerts, String> {
        let settings = Settings::parse(&format!("[alerts]\n{text}"), Path::new("stack.toml"));
        settings.map(|settings| settings.alerts).map_err(|invalid| invalid.render(false))
    }

    #[test]
    fn mail_takes_an_address_and_a_server() {
        let alerts = read("email = \"me@example.com\"\nsmtp = \"smtp.example.com:587\"\n").unwrap();
        let email = alerts.email.unwrap();
        assert_eq!((email.to.as_str(), email.from.as_str(), email.user), ("me@example.com", "me@example.com", None));
        for (text, words) in [
            ("email = \"me@example.com\"\n", "`email` needs `smtp`"),
            ("smtp = \"smtp.example.com:587\"\n", "`smtp` needs `email`"),
            ("email = \"me\"\nsmtp = \"smtp.example.com:587\"\n", "\"me\" is not a mail address"),
            ("email = \"me@example.com\"\nsmtp = \"smtp.example.com\"\n", "\"smtp.example.com\" is not a server"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(words) && said.matches("error:").count() == 1, "{said}");
        }
    }

    #[test]
    fn a_way_is_a_url_or_a_channel() {
        let alerts =
            read("slack = \"#alerts\"\nntfy = \"https://ntfy.sh/mine\"\nwebhook = \"http://10.0.0.7:9/x\"\n").unwrap();
        assert_eq!(alerts.ntfy.as_deref(), Some("https://ntfy.sh/mine"));
        for text in
            ["slack = \"alerts\"\n", "ntfy = \"mine\"\n", "webhook = \"ftp://x/\"\n", "watchdog = \"http://a b\"\n"]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
