//! Codes as bytes and back.

use snapc_weights::quantize::{Packer, pack, pack_int4, packed_len, unpack, unpack_int4};

const WIDTHS: [usize; 6] = [1, 2, 3, 4, 6, 8];

fn codes(count: usize, bits: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 >> (8 - bits)
    };
    (0..count).map(next).collect()
}

#[test]
fn every_bit_lies_where_the_formula_says() {
    for bits in WIDTHS {
        for count in 0..40 {
            let codes = codes(count, bits, 1);
            let bytes = pack(&codes, bits).unwrap();
            assert_eq!(bytes.len(), packed_len(count, bits));
            assert_eq!(bytes.len(), (count * bits).div_ceil(8));
            for at in 0..bytes.len() * 8 {
                let expected = codes.get(at / bits).map_or(0, |code| code >> (at % bits) & 1);
                assert_eq!(bytes[at / 8] >> (at % 8) & 1, expected, "bit {at} of {count} codes of {bits}");
            }
        }
    }
}

#[test]
fn pieces_are_the_whole_and_come_back() {
    for bits in WIDTHS {
        for seed in 0..50 {
            let codes = codes(seed as usize * 7 % 101, bits, seed);
            let whole = pack(&codes, bits).unwrap();
            assert_eq!(unpack(&whole, bits, codes.len()).unwrap(), codes);
            let (mut packer, mut bytes) = (Packer::new(bits).unwrap(), Vec::new());
            // A packer is as new after a flush.
            for _ in 0..2 {
                bytes.clear();
                for piece in codes.chunks(1 + seed as usize % 9) {
                    packer.push(piece, &mut bytes);
                    assert!(bytes.len() <= whole.len());
                }
                packer.flush(&mut bytes);
                assert_eq!(bytes, whole);
            }
        }
    }
}

#[test]
fn int4_is_twos_complement_with_the_low_nibble_first() {
    assert_eq!(pack_int4(&[1, -1, -8, 7, 3]), [0xf1, 0x78, 0x03]);
    for count in 0..33 {
        let signed: Vec<i8> = codes(count, 4, 9).iter().map(|code| *code as i8 - 8).collect();
        let bytes = pack_int4(&signed);
        assert_eq!(unpack_int4(&bytes, count).unwrap(), signed);
        let unsigned: Vec<u8> = signed.iter().map(|code| *code as u8 & 15).collect();
        assert_eq!(pack(&unsigned, 4).unwrap(), bytes);
    }
}

#[test]
fn wrong_widths_and_lengths_are_errors() {
    for bits in [0, 5, 7, 9, 64] {
        assert!(Packer::new(bits).is_err());
        assert!(unpack(&[], bits, 0).is_err());
    }
    assert!(unpack(&[0], 4, 3).is_err());
    assert!(unpack(&[0, 0], 4, 2).is_err());
    assert!(unpack_int4(&[0, 0], 5).is_err());
}
