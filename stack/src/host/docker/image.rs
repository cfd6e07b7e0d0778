//! Images: got by name, or made of our own program.

use super::{Docker, ask, command};
use crate::{
    failure::{Class, Doing, Failure},
    host::Follow,
    layout::Root,
    process::{self, Command},
    release::Release,
};

impl Docker<'_> {
    pub(super) fn pull(&self, image: &str, follow: &mut Follow<'_>) -> Result<(), Failure> {
        self.act(&format!("pull {image}"), &["pull", "--quiet", image], follow).map(drop).map_err(|failure| {
            failure.hint(
                "[images] in stack.toml can name a mirror, or what `docker load` or `docker build` has brought to the host",
            )
        })
    }

    /// Our program alone, without a base: it is linked statically and checks its own health.
    pub(super) fn import(&self, image: &str) -> Result<(), Failure> {
        let folder = self.root.bin().display().to_string();
        let pack = Command {
            program: process::find("tar").unwrap_or_else(|| "tar".into()),
            args: ["-C", &folder, "-c", "xtask"].map(str::to_owned).into(),
            env: [].into(),
        };
        let import = command(&["import", "--change", "ENTRYPOINT [\"/xtask\"]", "-", image])?;
        let done = process::pipe(&pack, &import).doing("cannot run", &import.program)?;
        done.map(drop).map_err(|said| {
            Failure::new(Class::Failed, format!("cannot make image {image}")).because(&std::io::Error::other(said))
        })
    }
}

/// Removes the image that was made for a release, unless another one's containers still use it.
pub(super) fn forget(root: &Root, release: &Release) {
    // Docker refuses while a container needs it, which is as it should be.
    let _ = ask(&["image", "rm", &root.own_image(&release.content.program)]);
}
