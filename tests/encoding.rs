//! Weights as codes: what moves them, and that it is the same before and after.
#![allow(clippy::unwrap_used)]

use snapc_ir::{Coded, DType, Dim, Encoding, Transform, Weight};
use snapc_weights::{Encoded, Store};

/// Numbers without a pattern that blocks could share.
fn number(index: usize) -> f32 {
    let mixed = (index as u32).wrapping_mul(2_654_435_761);
    (mixed >> 8) as f32 / (1 << 24) as f32 - 0.5
}

fn weight(shape: &[usize]) -> Weight {
    let count: usize = shape.iter().product();
    Weight::inline("w", (0..count).map(number).collect(), shape.to_vec())
}

fn with(mut weight: Weight, changes: &[Transform]) -> Weight {
    weight.transforms.extend(changes.iter().cloned());
    weight.dims = weight.computed_shape().unwrap().into_iter().map(Dim::fixed).collect();
    weight
}

fn encoded(weight: &Weight) -> Encoded {
    Store::empty().encode(weight).unwrap()
}

fn encodings() -> Vec<(Encoding, Vec<usize>)> {
    vec![
        (Encoding::int(8, None), vec![12, 64]),
        (Encoding::int(4, None), vec![12, 64]),
        (Encoding::int(4, Some(32)), vec![12, 64]),
        (Encoding::int(8, None), vec![6, 4, 3, 3]),
        (Encoding::palette(4, None), vec![12, 64]),
        (Encoding::palette(3, Some(2)), vec![12, 64]),
        (Encoding::palette(6, Some(2)), vec![12, 4, 3, 3]),
        (Encoding::palette(8, None), vec![12, 64]),
        (Encoding::palette(2, None), vec![6, 4, 3, 3]),
    ]
}

/// What is held as codes gives, row by row, what is read.
#[test]
fn codes_are_decoded_by_rows() {
    let store = Store::empty();
    let mut held = 0;
    for (encoding, shape) in encodings() {
        let moves = if shape.len() == 2 { vec![Transform::Transpose(vec![1, 0])] } else { Vec::new() };
        for changes in [Vec::new(), moves] {
            for dtype in [DType::F32, DType::F16] {
                let encode = Transform::Encode(encoding);
                let weight =
                    Weight { dtype, ..with(weight(&shape), &[vec![encode], changes.clone()].concat()) };
                let read = store.read(&weight).unwrap();
                let row = read.ty.last();
                let codes = store.codes_of(&weight).unwrap();
                assert_eq!(codes.is_some(), (row * encoding.code.bits()).is_multiple_of(8), "{encoding}");
                let Some(codes) = codes else { continue };
                held += 1;
                assert!(codes.bytes() < 4 * read.values().len());
                for (first, count) in [(0, read.values().len() / row), (1, 3), (5, 1)] {
                    let mut values = vec![f32::NAN; count * row];
                    codes.decode_rows(first, &mut values);
                    assert_eq!(values, read.values()[first * row..][..count * row], "{encoding} {changes:?}");
                }
            }
        }
    }
    assert!(held > 2 * encodings().len());
    assert!(store.codes_of(&weight(&[12, 64])).unwrap().is_none());
}

/// Codes that are moved stand for the numbers that the moved numbers are.
#[test]
fn moving_codes_is_moving_numbers() {
    for (encoding, shape) in encodings() {
        let encode = Transform::Encode(encoding);
        let mut moves = vec![
            vec![Transform::Take { axis: 0, chunks: 3, keep: shape[0] / 3 }],
            vec![Transform::Part { axis: 0, start: 4, size: shape[0] - 4 }],
            vec![Transform::Reshape([vec![2, shape[0] / 2], shape[1..].to_vec()].concat())],
        ];
        if let [rows, cols] = shape[..] {
            moves.push(vec![Transform::Transpose(vec![1, 0])]);
            moves.push(vec![
                Transform::Part { axis: 1, start: 32, size: 32 },
                Transform::Transpose(vec![1, 0]),
            ]);
            moves
                .push(vec![Transform::Reshape(vec![rows, 2, cols / 2]), Transform::Transpose(vec![1, 0, 2])]);
        } else {
            moves.push(vec![Transform::Transpose(vec![0, 2, 3, 1])]);
            moves.push(vec![Transform::Reshape(vec![shape[0], shape[1] * 9])]);
        }
        for moves in moves {
            let whole = with(weight(&shape), std::slice::from_ref(&encode));
            let numbers = Store::empty().read(&whole).unwrap().values().to_vec();
            let plain = with(Weight::inline("w", numbers, shape.clone()), &moves);
            let expected = Store::empty().read(&plain).unwrap();
            let moved = with(whole, &moves);
            assert!(moved.coded().is_some(), "{encoding}, {moves:?}");
            assert_eq!(
                Store::empty().read(&moved).unwrap().values(),
                expected.values(),
                "{encoding}, {moves:?}"
            );
            assert_eq!(encoded(&moved).tables.len(), moved.coded().unwrap().table_count());
        }
    }
}

/// A narrower subnet's codes are a part of the wider one's: blocks of 32 divide every width.
#[test]
fn slicing_and_blocks_agree() {
    let encode = Transform::Encode(Encoding::int(4, Some(32)));
    let takes =
        [Transform::Take { axis: 0, chunks: 2, keep: 32 }, Transform::Take { axis: 1, chunks: 4, keep: 32 }];
    let before = with(with(weight(&[128, 256]), &takes), std::slice::from_ref(&encode));
    let after = with(with(weight(&[128, 256]), &[encode]), &takes);
    assert_eq!(encoded(&before), encoded(&after));
    assert_eq!(encoded(&before).coded.shape, [64, 128]);
}

/// What would part a block is no part of an encoded weight.
#[test]
fn blocks_stay_whole() {
    let weight = with(weight(&[12, 64]), &[Transform::Encode(Encoding::int(4, Some(32)))]);
    assert!(weight.can_part(1, 32, 32) && weight.can_part(0, 3, 5));
    assert!(!weight.can_part(1, 16, 32) && !weight.can_part(1, 0, 48));
    let coded = weight.coded().unwrap();
    assert_eq!(coded.after(&Transform::Reshape(vec![24, 32])).map(|coded| coded.blocks), Some(vec![24, 1]));
    assert_eq!(coded.after(&Transform::Reshape(vec![48, 16])), None);
    let per_row = Coded { blocks: vec![12, 1], ..coded };
    assert_eq!(
        per_row.after(&Transform::Reshape(vec![3, 4, 64])).map(|coded| coded.blocks),
        Some(vec![3, 4, 1])
    );
    assert_eq!(per_row.after(&Transform::Reshape(vec![24, 32])), None);
}

/// Powers of two are applied before a weight is encoded, wherever they are asked for.
#[test]
fn powers_of_two_go_before_codes() {
    let mut weight = with(weight(&[12, 64]), &[Transform::Encode(Encoding::int(8, None))]);
    let codes = encoded(&weight).codes;
    weight.double(-3).unwrap();
    assert_eq!(weight.transforms[0], Transform::Double(-3));
    assert_eq!(encoded(&weight).codes, codes);
}

#[test]
fn the_text_form_of_an_encoding() {
    for text in ["int8", "int4 group 32", "palette6 group 16 awq", "int4 gptq"] {
        assert_eq!(text.parse::<Encoding>().unwrap().to_string(), text);
    }
    for text in ["", "int5", "palette7", "int4 group", "int4 group 0", "int8 best"] {
        assert!(text.parse::<Encoding>().is_err(), "{text}");
    }
}
