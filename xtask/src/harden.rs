//! `harden`: how well the stack is closed, and what an attacker finds.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, ToSocketAddrs},
    path::Path,
};

use anyhow::Result;
use ops::{
    doctor::Finding,
    harden::{self, Measure, Target},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use stack::{
    failure::{Class, Failure},
    layout::Root,
    observed::Observed,
};

use crate::{
    cli, doctor,
    report::{self, Exit},
    session::{Need, Session},
    there::{self, As},
};

pub(crate) fn run(settings: Option<&Path>, args: &cli::Harden) -> Result<Exit> {
    let mut session = Session::open(settings, Need::Any)?;
    if args.audit {
        return audit(&mut session, args.json);
    }
    if !session.is_here {
        return there::run(session, As::Question);
    }
    if args.ca {
        return authority(&mut session);
    }
    let observed = session.deployed()?;
    let measures = harden::measures(&session.settings, &observed);
    report::data(&match args.json {
        true => format!("{}\n", json!({ "measures": measures })),
        false => measures.iter().map(line).collect(),
    })?;
    let open = measures.iter().filter(|measure| !measure.hardened).count();
    if open == 0 {
        return Ok(Exit::Done);
    }
    report::say(&format!("\n{open} of {} are open; `cargo xtask harden --audit` tries them", measures.len()));
    Ok(Exit::Failed)
}

/// What clients are to trust.
fn authority(session: &mut Session) -> Result<Exit> {
    let path = Root::new(session.deployed()?.root).authority().join("authority.pem");
    let Ok(pem) = fs::read_to_string(&path) else {
        return Err(Failure::new(Class::Nothing, "this host has no authority of its own")
            .hint("`tls = \"internal\"` under [edge] in stack.toml, then cargo xtask deploy")
            .into());
    };
    report::data(&pem)?;
    report::say("docs/care.md says how macOS, iOS and Linux come to trust it");
    Ok(Exit::Done)
}

fn line(measure: &Measure) -> String {
    let word = if measure.hardened { "closed" } else { "OPEN" };
    let setting = measure.setting.as_ref().map(|it| format!("{:20}→ {it}\n", "")).unwrap_or_default();
    format!("{word:<8}{:<12}{}\n{setting}", measure.what, measure.detail)
}

/// The shape of `--audit --json`.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    findings: Vec<Finding>,
}

/// Files are looked at where they are, ports are tried from here.
fn audit(session: &mut Session, json: bool) -> Result<Exit> {
    let observed = session.deployed()?;
    let mut findings = match session.is_here {
        true => harden::exposed_files(&observed.root),
        false => {
            // Over there its own address is tried too: what is open to the host may be closed to us, and so no finding.
            let (answer, exit) = there::answer(session, &["harden", "--audit", "--json"], As::Question)?;
            let Ok(found) = serde_json::from_str::<Found>(&answer) else { return Ok(exit) };
            found.findings.into_iter().filter(|finding| finding.id == harden::READABLE).collect()
        }
    };
    let (address, name) = address(session, &observed)?;
    let target = Target {
        address,
        name,
        doors: observed.current_release().map(|it| it.content.doors.clone()).unwrap_or_default(),
        tls: observed.current_release().is_some_and(|it| it.content.scheme() == "https"),
        authority: trusted(session, &observed)?,
        inner: harden::inner_ports(&observed),
    };
    report::say(&format!("trying {} from here", target.address));
    findings.extend(harden::attack(&target)?);
    report::data(&match (json, findings.is_empty()) {
        (true, _) => format!("{}\n", serde_json::to_string(&Found { findings: findings.clone() })?),
        (false, true) => "nothing is open that should be closed\n".to_owned(),
        (false, false) => findings.iter().map(doctor::paragraph).collect::<Vec<_>>().join("\n"),
    })?;
    Ok(if findings.is_empty() { Exit::Done } else { Exit::Failed })
}

/// The host's own authority, where that has made the edge's certificate.
fn trusted(session: &mut Session, observed: &Observed) -> Result<Option<String>> {
    if !observed.certificate.as_ref().is_some_and(|it| it.internal) {
        return Ok(None);
    }
    Ok(Some(match session.is_here {
        true => fs::read_to_string(Root::new(observed.root.clone()).authority().join("authority.pem"))?,
        false => there::answer(session, &["harden", "--ca"], As::Question)?.0,
    }))
}

/// Where others reach the host, never its loopback; and the name by which they do, where that is known.
fn address(session: &Session, observed: &Observed) -> Result<(IpAddr, Option<String>)> {
    let told = observed.facts.as_ref().and_then(|machine| machine.address);
    if session.is_here {
        return Ok((told.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), None));
    }
    let resolved = (session.host(), 0).to_socket_addrs().ok().and_then(|mut found| found.next()).map(|it| it.ip());
    let is_seen = |address: &IpAddr| !address.is_loopback();
    // By way of a tunnel it is reached at a loopback, where everything is open by design.
    let seen = resolved.filter(is_seen).or(observed.reached_at.filter(is_seen)).or(told).or(resolved);
    let name = resolved.filter(is_seen).map(|_| session.host().to_owned());
    seen.map(|address| (address, name)).ok_or_else(|| {
        Failure::new(Class::Unreachable, format!("nobody knows an address of {}", session.host())).into()
    })
}
