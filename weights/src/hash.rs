//! SHA-256 (FIPS 180-4), by which files, checkpoints and packages are known.

use ring::digest::{Context, SHA256, digest};

/// The hash of bytes that come one after the other.
#[derive(Clone)]
pub struct Sha256(Context);

impl Default for Sha256 {
    fn default() -> Self {
        Sha256(Context::new(&SHA256))
    }
}

impl Sha256 {
    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all bytes.
    pub fn finish(self) -> [u8; 32] {
        sized(self.0.finish().as_ref())
    }

    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> [u8; 32] {
        sized(digest(&SHA256, bytes).as_ref())
    }
}

fn sized(hash: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash);
    bytes
}

/// Bytes as text, two digits each.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
