//! Codes as bytes: element `i` of `n` bits occupies bits `[i * n, (i + 1) * n)` of a little-endian stream, the least
//! significant bit first. For 4 bits that is two a byte, the low nibble first.

use snapc_ir::{Error, Result};

/// Packs codes that come piece by piece.
#[derive(Clone, Debug)]
pub struct Packer {
    bits: u32,
    /// Bits that do not fill a byte yet, the first lowest.
    held: u16,
    held_bits: u32,
}

impl Packer {
    /// A packer of codes of `bits` bits.
    ///
    /// # Errors
    /// If `bits` is none of 1, 2, 3, 4, 6 and 8.
    pub fn new(bits: usize) -> Result<Self> {
        Ok(Packer { bits: checked(bits)?, held: 0, held_bits: 0 })
    }

    /// Appends the whole bytes that the codes so far fill. Of a code its lowest bits count.
    pub fn push(&mut self, codes: &[u8], bytes: &mut Vec<u8>) {
        let mask = (1 << self.bits) - 1;
        bytes.reserve(packed_len(codes.len(), self.bits as usize));
        for code in codes {
            self.held |= (u16::from(*code) & mask) << self.held_bits;
            self.held_bits += self.bits;
            if self.held_bits >= 8 {
                bytes.push(self.held as u8);
                self.held >>= 8;
                self.held_bits -= 8;
            }
        }
    }

    /// [`Packer::push`] of signed codes, as two's complement of the packer's bits.
    pub fn push_signed(&mut self, codes: &[i8], bytes: &mut Vec<u8>) {
        self.push(bytemuck::cast_slice(codes), bytes);
    }

    /// Appends the last byte, its high bits zero, if one is begun. The packer is as new then.
    pub fn flush(&mut self, bytes: &mut Vec<u8>) {
        if self.held_bits > 0 {
            bytes.push(self.held as u8);
        }
        (self.held, self.held_bits) = (0, 0);
    }
}

/// How many bytes `count` codes of `bits` bits fill, the last one perhaps in part.
pub fn packed_len(count: usize, bits: usize) -> usize {
    (count / 8) * bits + (count % 8 * bits).div_ceil(8)
}

/// All codes at once, as [`Packer`] packs them.
///
/// # Errors
/// If `bits` is none of 1, 2, 3, 4, 6 and 8.
pub fn pack(codes: &[u8], bits: usize) -> Result<Vec<u8>> {
    let (mut packer, mut bytes) = (Packer::new(bits)?, Vec::new());
    packer.push(codes, &mut bytes);
    packer.flush(&mut bytes);
    Ok(bytes)
}

/// Signed codes of 4 bits, two a byte, the low nibble first.
pub fn pack_int4(codes: &[i8]) -> Vec<u8> {
    let mut packer = Packer { bits: 4, held: 0, held_bits: 0 };
    let mut bytes = Vec::new();
    packer.push_signed(codes, &mut bytes);
    packer.flush(&mut bytes);
    bytes
}

/// The `count` codes that [`pack`] made `bytes` of.
///
/// # Errors
/// If `bits` is none of 1, 2, 3, 4, 6 and 8, or there are not [`packed_len`] bytes.
pub fn unpack(bytes: &[u8], bits: usize, count: usize) -> Result<Vec<u8>> {
    let width = checked(bits)?;
    check_len(bytes, bits, count)?;
    Ok(unpacked(bytes, width, count))
}

/// As [`unpack`], of bytes that are known to be as many.
pub(crate) fn unpacked(bytes: &[u8], width: u32, count: usize) -> Vec<u8> {
    let mask = (1 << width) - 1;
    let mut codes = Vec::with_capacity(count);
    let (mut held, mut held_bits, mut rest) = (0u16, 0, bytes.iter());
    for _ in 0..count {
        if held_bits < width {
            held |= u16::from(rest.next().copied().unwrap_or_default()) << held_bits;
            held_bits += 8;
        }
        codes.push((held & mask) as u8);
        held >>= width;
        held_bits -= width;
    }
    codes
}

/// The `count` codes that [`pack_int4`] made `bytes` of.
///
/// # Errors
/// If there are not [`packed_len`] bytes.
pub fn unpack_int4(bytes: &[u8], count: usize) -> Result<Vec<i8>> {
    check_len(bytes, 4, count)?;
    Ok(signed_nibbles(bytes).take(count).collect())
}

/// Codes of 4 bits with their signs.
pub(crate) fn signed_nibbles(bytes: &[u8]) -> impl Iterator<Item = i8> {
    bytes.iter().flat_map(|byte| [(byte << 4) as i8 >> 4, *byte as i8 >> 4])
}

fn checked(bits: usize) -> Result<u32> {
    match bits {
        1 | 2 | 3 | 4 | 6 | 8 => Ok(bits as u32),
        _ => Err(Error::bug(format!("codes of {bits} bits, which are none of 1, 2, 3, 4, 6 and 8"))),
    }
}

fn check_len(bytes: &[u8], bits: usize, count: usize) -> Result<()> {
    if bytes.len() != packed_len(count, bits) {
        return Err(Error::bug(format!(
            "{count} codes of {bits} bits fill {} bytes, not {}",
            packed_len(count, bits),
            bytes.len()
        )));
    }
    Ok(())
}
