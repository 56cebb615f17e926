//! A bounded run of the entry points that `fuzz/` has: a few hundred damaged inputs each, the same every time.
#![allow(clippy::unwrap_used, clippy::panic)]

use snapc_tests::fuzz::ENTRIES;

/// A linear congruential generator.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }
}

/// One to three of: a byte changed, a piece lost, a piece twice, a number made large.
fn damaged(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(3) {
        // Most of a checkpoint is numbers, of which any will do: half the damage is at the start.
        let reach = if random.below(2) == 0 { bytes.len().min(4096) } else { bytes.len() };
        let at = random.below(reach);
        let end = (at + 1 + random.below(16)).min(bytes.len());
        match random.below(6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.splice(at..at, bytes[at..end].to_vec()).for_each(drop),
            3 => bytes[at..end]
                .iter_mut()
                .for_each(|byte| *byte = if byte.is_ascii_digit() { b'9' } else { 0xff }),
            4 => bytes[at..end].iter_mut().for_each(|byte| *byte ^= 1),
            _ => bytes[at] = random.below(256) as u8,
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

#[test]
fn damage_never_panics() {
    for entry in ENTRIES {
        let (seed, mut random) = ((entry.seed)(), Random(1));
        assert!((entry.run)(&seed), "{}: what is not damaged is not read", entry.name);
        assert!(!(entry.run)(&[]), "{}: nothing is read", entry.name);
        for number in 0..300 {
            let bytes = damaged(&seed, &mut random);
            let done = std::panic::catch_unwind(|| (entry.run)(&bytes));
            assert!(done.is_ok(), "{}: input {number} panics", entry.name);
        }
    }
}

#[test]
fn the_corpora_never_panic() {
    for entry in ENTRIES {
        let corpus = snapc_tests::files(&snapc_tests::fixture("../fuzz/corpus").join(entry.name));
        assert!(!corpus.is_empty(), "{}", entry.name);
        for bytes in corpus.values() {
            (entry.run)(bytes);
        }
    }
}
