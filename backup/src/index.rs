//! Which objects are there, and where: read from the names and the packs' own indexes each time, kept nowhere.
//!
//! Invariant: what is marked as damaged is not in it.

use std::collections::{HashMap, HashSet};

use crate::digest::Digest;
use crate::disk::{Disk, read_all};
use crate::failure::{Doing, StoreError};
use crate::pack::{self, Place};

/// Where an object is.
#[derive(Debug, Clone)]
pub(crate) enum Location {
    Raw { size: u64 },
    Zstd { size: u64 },
    Packed { pack: Pack, place: Place },
}

/// A pack, by its number in an index: there are many more objects than packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pack(u32);

/// The objects of a repository.
#[derive(Debug, Default)]
pub struct Index {
    objects: HashMap<Digest, Location>,
    /// Names of packs, by their numbers.
    packs: Vec<String>,
    /// Packs that cannot be read, and why.
    pub(crate) broken: Vec<(String, String)>,
}

impl Index {
    pub(crate) fn read(disk: &dyn Disk) -> Result<Self, StoreError> {
        let mut index = Self::default();
        let mut marked: HashSet<(String, Digest)> = HashSet::new();
        for file in disk.list("damaged").doing("list", "damaged")? {
            let path = format!("damaged/{}", file.name);
            let bytes = read_all(disk, &path, 1 << 30).doing("read", &path)?;
            let digests = String::from_utf8_lossy(&bytes).lines().filter_map(|it| it.parse().ok()).collect::<Vec<_>>();
            marked.extend(digests.into_iter().map(|it| (file.name.clone(), it)));
        }
        for file in disk.list("packs").doing("list", "packs")? {
            let path = format!("packs/{}", file.name);
            let read = disk.open(&path).doing("read", &path).and_then(|mut it| pack::read_index(&path, &mut *it));
            match read {
                Ok(entries) => index.insert_pack(&file.name, entries, &marked),
                Err(error) if error.is_damage() => index.broken.push((file.name, error.to_string())),
                Err(error) => return Err(error),
            }
        }
        for file in disk.list("objects").doing("list", "objects")? {
            let size = file.size_bytes;
            if let Ok(digest) = file.name.parse() {
                index.objects.insert(digest, Location::Raw { size });
            } else if let Some(Ok(digest)) = file.name.strip_suffix(".zst").map(str::parse) {
                index.objects.entry(digest).or_insert(Location::Zstd { size });
            }
        }
        Ok(index)
    }

    fn insert_pack(&mut self, name: &str, entries: Vec<(Digest, Place)>, marked: &HashSet<(String, Digest)>) {
        let pack = self.add_pack(name);
        for (digest, place) in entries {
            if marked.is_empty() || !marked.contains(&(name.to_owned(), digest)) {
                self.objects.insert(digest, Location::Packed { pack, place });
            }
        }
    }

    pub(crate) fn add_pack(&mut self, name: &str) -> Pack {
        self.packs.push(name.to_owned());
        Pack(self.packs.len() as u32 - 1)
    }

    pub(crate) fn pack_name(&self, Pack(number): Pack) -> &str {
        &self.packs[number as usize]
    }

    /// The file that holds an object.
    pub(crate) fn path(&self, digest: &Digest, location: &Location) -> String {
        match location {
            Location::Raw { .. } => format!("objects/{digest}"),
            Location::Zstd { .. } => format!("objects/{digest}.zst"),
            Location::Packed { pack, .. } => format!("packs/{}", self.pack_name(*pack)),
        }
    }

    /// Whether the object can be had.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.objects.contains_key(digest)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<&Location> {
        self.objects.get(digest)
    }

    pub(crate) fn insert(&mut self, digest: Digest, location: Location) {
        self.objects.insert(digest, location);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Digest, &Location)> {
        self.objects.iter()
    }
}
