//! Asking a component on this host over HTTP.

use std::{sync::OnceLock, time::Duration};

use reqwest::blocking::Client;

/// Whoever serves answers at once.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What a URL answers with, if that is a good answer; else why not.
pub(super) fn get(url: &str) -> Result<String, String> {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    let client = CLIENT.get_or_init(|| Client::builder().no_proxy().timeout(TIMEOUT).build().unwrap_or_default());
    let answer = client.get(url).send().and_then(|answer| answer.error_for_status()?.text());
    answer.map_err(|error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        cause.to_string()
    })
}

/// Whether a URL answers well: what a container's health check is.
///
/// # Errors
/// Why not.
pub fn probe(url: &str) -> Result<(), String> {
    get(url).map(drop)
}
