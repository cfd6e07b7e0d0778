//! Volumes whose data another image may change for good: copied before, put back after.
//!
//! Invariant: a copy counts only once it is whole, and is then left alone until it is put back or its release is swept.

use super::{Docker, ask};
use crate::{
    failure::Failure,
    host::Follow,
    release::{Release, ReleaseId},
};

/// Made last in a copy.
const WHOLE: &str = ".whole-copy";

impl Docker<'_> {
    fn copy_of(&self, name: &str, release: &ReleaseId) -> String {
        format!("{}_{name}_before_{release}", self.project)
    }

    fn has(&self, volume: &str) -> Result<bool, Failure> {
        Ok(ask(&["volume", "inspect", volume])?.is_ok())
    }

    /// Copies a volume that a release's image may change. A copy that is there is older than that, and stays.
    pub(super) fn keep(
        &self,
        name: &str,
        image: &str,
        release: &ReleaseId,
        follow: &mut Follow<'_>,
    ) -> Result<(), Failure> {
        let (from, to) = (self.root.volume(name), self.copy_of(name, release));
        if !self.has(&from)? {
            return Ok(());
        }
        let script = format!(
            "[ -e /to/{WHOLE} ] || {{ rm -rf /to/* /to/.[!.]*; cp -a /from/. /to/ && sync && touch /to/{WHOLE}; }}"
        );
        self.copy(&format!("copy volume {name}"), &from, &to, image, &script, follow)
    }

    /// Puts a copy back, if there is a whole one, and removes it.
    pub(super) fn put_back_volume(
        &self,
        name: &str,
        image: &str,
        release: &ReleaseId,
        follow: &mut Follow<'_>,
    ) -> Result<(), Failure> {
        let (from, to) = (self.copy_of(name, release), self.root.volume(name));
        if !self.has(&from)? {
            return Ok(());
        }
        let script = format!(
            "[ ! -e /from/{WHOLE} ] || {{ rm -rf /to/* /to/.[!.]*; cp -a /from/. /to/ && rm -f /to/{WHOLE} && sync; }}"
        );
        self.copy(&format!("put back volume {name}"), &from, &to, image, &script, follow)?;
        self.act(&format!("remove the copy of volume {name}"), &["volume", "rm", &from], follow).map(drop)
    }

    /// Runs a script as root among two volumes, in an image that is there in any case.
    fn copy(
        &self,
        doing: &str,
        from: &str,
        to: &str,
        image: &str,
        script: &str,
        follow: &mut Follow<'_>,
    ) -> Result<(), Failure> {
        let mounts = [format!("--volume={from}:/from"), format!("--volume={to}:/to")];
        let fixed = ["run", "--rm", "--network=none", "--user=0:0", &mounts[0], &mounts[1], "--entrypoint=/bin/sh"];
        let args: Vec<&str> = fixed.into_iter().chain([image, "-c", script]).collect();
        self.act(doing, &args, follow).map(drop)
    }

    /// Removes the copies that were kept from a release: nobody goes back behind one that is swept.
    pub(super) fn forget_volumes(&self, release: &Release) {
        let containers = release.content.services.iter().filter_map(|service| service.container());
        for name in containers.filter_map(|container| container.migrates.as_ref()) {
            let _ = ask(&["volume", "rm", &self.copy_of(name, &release.id)]);
        }
    }

    /// Removes every volume of this root.
    pub(super) fn erase_volumes(&self, follow: &mut Follow<'_>) -> Result<(), Failure> {
        let filter = format!("--filter=label=com.docker.compose.project={}", self.project);
        let volumes: Vec<String> =
            super::tell(&["volume", "ls", "--quiet", &filter])?.lines().map(str::to_owned).collect();
        self.each("remove volumes", &["volume", "rm"], &volumes, follow)
    }
}
