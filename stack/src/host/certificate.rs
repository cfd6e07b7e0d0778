//! The edge's certificate, and the host's own authority that makes it.
//!
//! The authority's key and certificate are made once and stay: clients have been told to trust them. What is told of a
//! certificate stands beside it, so that nobody has to read it again. Invariant: the authority's key is its owner's alone;
//! the edge's own key lies in a folder that only its owner enters, since a container's nginx is another user.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Datelike, Days, NaiveDate, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use serde::{Deserialize, Serialize};

use crate::{
    durable,
    failure::{Class, Doing, Failure},
    layout::Root,
    observed::Certificate,
    process,
    release::sha256_hex,
};

/// Clients trust no certificate for longer: 398 days is Apple's limit, and room for clocks.
const LEAF_DAYS: u64 = 390;

/// The authority outlives the machine.
const AUTHORITY_DAYS: u64 = 3650;

/// What the authority is called where it is trusted.
#[derive(Serialize, Deserialize)]
struct Authority {
    name: String,
    from: NaiveDate,
}

/// The certificate that the edge has. One by another authority than the host has now is none: clients were told to trust
/// the one that a backup has brought back.
pub(super) fn read(root: &Root) -> Result<Option<Certificate>, Failure> {
    let found: Option<Certificate> = durable::read_json(&root.authority().join("edge.json"))?;
    Ok(found.filter(|it| !it.internal || it.authority == known(root)))
}

/// The authority that there is, by its certificate's digest.
fn known(root: &Root) -> Option<String> {
    fs::read(root.authority().join("authority.pem")).ok().map(|pem| sha256_hex(&pem))
}

/// The digest of a certificate and its key that lie elsewhere.
pub(super) fn offered(files: &[PathBuf; 2]) -> Option<String> {
    let [certificate, key] = files;
    Some(digest(&fs::read(certificate).ok()?, &fs::read(key).ok()?))
}

fn digest(certificate: &[u8], key: &[u8]) -> String {
    sha256_hex(&[certificate, key].concat())[..16].to_owned()
}

/// Has a certificate for these names, or the one in the files, where the edge looks for it.
pub(super) fn certify(root: &Root, names: &[String], files: Option<&[PathBuf; 2]>) -> Result<(), Failure> {
    let folder = root.authority();
    fs::create_dir_all(root.certificate()).doing("cannot make", &folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).doing("cannot close", &folder)?;
    let (certificate, key, facts) = match files {
        Some([certificate, key]) => {
            let read = |path: &PathBuf| fs::read(path).doing("cannot read", path);
            let (text, key) = (read(certificate)?, read(key)?);
            let facts = Certificate {
                digest: digest(&text, &key),
                names: Vec::new(),
                expires: ends(certificate),
                internal: false,
                authority: None,
            };
            (text, key, facts)
        }
        None => {
            let made = issue(root, names);
            made.map_err(|error| Failure::new(Class::Failed, "cannot make a certificate").because(&error))??
        }
    };
    write(&root.certificate().join("key.pem"), &key)?;
    write(&root.certificate().join("certificate.pem"), &certificate)?;
    tell(root, &facts)?;
    durable::write_json(&folder.join("edge.json"), &facts)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    durable::write(path, bytes).doing("cannot write", path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).doing("cannot open", path)
}

/// For node_exporter: an alert watches it.
fn tell(root: &Root, facts: &Certificate) -> Result<(), Failure> {
    let path = root.textfile().join("tls.prom");
    let Some(expires) = facts.expires else { return durable::remove(&path) };
    let name = "llm_tls_certificate_expiry_timestamp_seconds";
    let text = format!(
        "# HELP {name} When the edge's certificate ends.\n# TYPE {name} gauge\n{name} {}\n",
        expires.timestamp()
    );
    fs::create_dir_all(root.textfile()).doing("cannot make", &root.textfile())?;
    durable::write(&path, text.as_bytes()).doing("cannot write", &path)
}

/// When a certificate that was got elsewhere ends: `notAfter=Nov 26 12:00:00 2027 GMT`, by openssl if the host has it.
fn ends(certificate: &Path) -> Option<DateTime<Utc>> {
    let said = process::look_up("openssl", &["x509", "-enddate", "-noout", "-in", &certificate.to_string_lossy()])?;
    let text = said.trim().strip_prefix("notAfter=")?.strip_suffix(" GMT")?;
    Some(chrono::NaiveDateTime::parse_from_str(text, "%b %e %H:%M:%S %Y").ok()?.and_utc())
}

type Made = (Vec<u8>, Vec<u8>, Certificate);

/// Makes a certificate, and the authority if there is none. The outer error is the cryptography's.
fn issue(root: &Root, names: &[String]) -> Result<Result<Made, Failure>, rcgen::Error> {
    let issuer = match authority(root)? {
        Ok(issuer) => issuer,
        Err(failure) => return Ok(Err(failure)),
    };
    let mut names = names.to_vec();
    // What the machine calls itself, and calls itself on the local network.
    if let Ok(own) = process::uname('n') {
        let short = own.split('.').next().unwrap_or_default().to_owned();
        names.extend([format!("{short}.local"), own]);
    }
    for loopback in ["127.0.0.1", "::1"] {
        names.push(loopback.to_owned());
    }
    names.retain(|name| name.parse::<IpAddr>().is_ok() || name.contains(|it: char| it.is_ascii_alphabetic()));
    names.sort();
    names.dedup();
    let today = Utc::now().date_naive();
    let mut params = CertificateParams::new(names.clone())?;
    params.distinguished_name = called(names.first().map_or("stack", String::as_str));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let last = lasts(&mut params, today, LEAF_DAYS);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?.pem().into_bytes();
    let key = key.serialize_pem().into_bytes();
    let expires = last.and_hms_opt(0, 0, 0).map(|time| time.and_utc());
    let digest = digest(&certificate, &key);
    let facts = Certificate { digest, names, expires, internal: true, authority: known(root) };
    Ok(Ok((certificate, key, facts)))
}

/// The authority: as it was made, or made now.
fn authority(root: &Root) -> Result<Result<Issuer<'static, KeyPair>, Failure>, rcgen::Error> {
    let at = |name: &str| root.authority().join(name);
    let known: Option<Authority> = match durable::read_json(&at("authority.json")) {
        Ok(known) => known,
        Err(failure) => return Ok(Err(failure)),
    };
    if let (Some(known), Ok(pem)) = (&known, fs::read_to_string(at("authority.key"))) {
        return Ok(Ok(Issuer::new(of_authority(known), KeyPair::from_pem(&pem)?)));
    }
    let host = process::uname('n').unwrap_or_default();
    let made = Authority { name: format!("Frontier LLM stack on {host}"), from: Utc::now().date_naive() };
    let (params, key) = (of_authority(&made), KeyPair::generate()?);
    let certificate = params.self_signed(&key)?.pem();
    let keep = || {
        let path = at("authority.key");
        durable::write_private(&path, key.serialize_pem().as_bytes()).doing("cannot write", &path)?;
        let path = at("authority.pem");
        durable::write(&path, certificate.as_bytes()).doing("cannot write", &path)?;
        // Last: without it the rest was never there.
        durable::write_json(&at("authority.json"), &made)
    };
    Ok(keep().map(|()| Issuer::new(params, key)))
}

fn of_authority(authority: &Authority) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = called(&authority.name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    lasts(&mut params, authority.from, AUTHORITY_DAYS);
    params
}

fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    called
}

/// From yesterday on, since clocks differ; answers the last day.
fn lasts(params: &mut CertificateParams, from: NaiveDate, days: u64) -> NaiveDate {
    let yesterday = from.pred_opt().unwrap_or(from);
    let last = from.checked_add_days(Days::new(days)).unwrap_or(from);
    let date = |day: NaiveDate| date_time_ymd(day.year(), day.month() as u8, day.day() as u8);
    (params.not_before, params.not_after) = (date(yesterday), date(last));
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_authority_made_is_no_certificate() {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [old, new] = [&old, &new].map(|it| Root::new(it.path().to_owned()));
        let names = ["host.local".to_owned()];
        for root in [&old, &new] {
            certify(root, &names, None).unwrap();
            assert!(read(root).unwrap().is_some_and(|it| it.names.contains(&names[0])));
        }
        // The old host's comes back from a backup.
        for name in ["authority.json", "authority.key", "authority.pem"] {
            fs::copy(old.authority().join(name), new.authority().join(name)).unwrap();
        }
        assert_eq!(read(&new).unwrap(), None);
        certify(&new, &names, None).unwrap();
        assert!(read(&new).unwrap().is_some());
        assert_eq!(known(&new), known(&old));
    }
}
