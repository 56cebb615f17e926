//! Recipes, run whole and streamed, against a plain rendering of them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};
use snapc_ir::{Class, DType, Dim, Encoding, Error, Method, Source, Transform, Weight};
use snapc_weights::{Limits, Make, Region, Scratch, Store, Stored, in_order};
use tempfile::TempDir;

/// Numbers that f16 and bf16 hold exactly.
fn number(index: usize) -> f32 {
    (index % 251) as f32 - 125.0
}

/// A file with the tensor `x` of that type and shape.
fn file(dtype: DType, shape: &[usize]) -> (TempDir, PathBuf) {
    let count: usize = shape.iter().product();
    let bytes: Vec<u8> = match dtype {
        DType::F32 => (0..count).flat_map(|i| number(i).to_le_bytes()).collect(),
        DType::F16 => (0..count).flat_map(|i| f16::from_f32(number(i)).to_le_bytes()).collect(),
        DType::BF16 => (0..count).flat_map(|i| bf16::from_f32(number(i)).to_le_bytes()).collect(),
        DType::I32 => (0..count).flat_map(|i| (number(i) as i32).to_le_bytes()).collect(),
    };
    let stored = match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I32 => Dtype::I32,
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let view = TensorView::new(stored, shape.to_vec(), &bytes).unwrap();
    std::fs::write(&path, serialize([("x", view)], None).unwrap()).unwrap();
    (folder, path)
}

/// What a recipe means, number by number.
fn plain(shape: &[usize], transforms: &[Transform]) -> Vec<f32> {
    let mut shape = shape.to_vec();
    let mut values: Vec<f32> = (0..shape.iter().product()).map(number).collect();
    for transform in transforms {
        let after = transform.apply(&shape).unwrap();
        let strides = |shape: &[usize]| -> Vec<usize> {
            (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect()
        };
        let (old, new) = (strides(&shape), strides(&after));
        if !matches!(transform, Transform::Reshape(_)) {
            values = (0..after.iter().product::<usize>())
                .map(|index| {
                    let place: Vec<usize> =
                        (0..after.len()).map(|axis| index / new[axis] % after[axis]).collect();
                    let mut source = vec![0; shape.len()];
                    match transform {
                        Transform::Take { axis, chunks, keep } => {
                            source.clone_from(&place);
                            source[*axis] =
                                place[*axis] / keep * (shape[*axis] / chunks) + place[*axis] % keep;
                        }
                        Transform::Transpose(perm) => {
                            perm.iter().zip(&place).for_each(|(&axis, &at)| source[axis] = at);
                        }
                        Transform::Part { axis, start, .. } => {
                            source.clone_from(&place);
                            source[*axis] += start;
                        }
                        Transform::Repeat(_) => {
                            source.clone_from(&place);
                            source[0] %= shape[0];
                        }
                        Transform::Double(_) => source.clone_from(&place),
                        Transform::Reshape(_) => {}
                        other => panic!("{other:?} is tested elsewhere"),
                    }
                    values[source.iter().zip(&old).map(|(at, stride)| at * stride).sum::<usize>()]
                })
                .collect();
        }
        if let Transform::Double(power) = transform {
            values.iter_mut().for_each(|value| *value *= 2f32.powi(*power));
        }
        shape = after;
    }
    values
}

fn recipe(dtype: DType, shape: &[usize], transforms: &[Transform], value: DType) -> Weight {
    let after = transforms.iter().fold(shape.to_vec(), |shape, change| change.apply(&shape).unwrap());
    Weight {
        name: "w".to_string(),
        source: Source::Tensor { name: "x".to_string(), dtype, shape: shape.to_vec() },
        transforms: transforms.to_vec(),
        dims: after.into_iter().map(Dim::fixed).collect(),
        dtype: value,
    }
}

fn bytes_of(store: &Store, weight: &Weight) -> Vec<u8> {
    let mut bytes = Vec::new();
    store
        .stream(weight, &mut |block| {
            bytes.extend_from_slice(block);
            Ok(())
        })
        .unwrap();
    bytes
}

#[test]
fn recipes_mean_what_they_say() {
    let take = |axis, chunks, keep| Transform::Take { axis, chunks, keep };
    let part = |axis, start, size| Transform::Part { axis, start, size };
    let cases: Vec<(Vec<usize>, Vec<Transform>)> = vec![
        (vec![6, 8], vec![]),
        (vec![6, 8], vec![take(0, 1, 4)]),
        (vec![6, 8], vec![take(1, 1, 3)]),
        (vec![6, 8], vec![take(0, 1, 5), take(1, 1, 3)]),
        (vec![12, 8], vec![take(0, 3, 2), take(1, 2, 3)]),
        (vec![24], vec![take(0, 6, 3)]),
        (vec![24], vec![take(0, 6, 3), take(0, 3, 5)]),
        (vec![4, 6, 2, 3], vec![take(1, 1, 4)]),
        (vec![4, 6, 4, 3], vec![take(1, 2, 1), take(2, 2, 1), take(3, 1, 2)]),
        (vec![6, 8], vec![Transform::Reshape(vec![48]), take(0, 6, 5)]),
        (vec![6, 8], vec![part(0, 2, 3), part(1, 4, 4)]),
        (vec![6, 8], vec![take(0, 2, 2), part(0, 1, 3), part(1, 0, 5)]),
        (vec![6, 8], vec![Transform::Transpose(vec![1, 0]), part(0, 3, 2)]),
        (vec![3, 4], vec![take(1, 1, 2), Transform::Repeat(2), Transform::Double(-3)]),
        (vec![6, 8], vec![take(1, 1, 4), Transform::Reshape(vec![3, 8])]),
        (vec![4, 6, 2, 3], vec![take(0, 1, 3), Transform::Transpose(vec![2, 3, 0, 1])]),
        (vec![3, 4], vec![Transform::Transpose(vec![1, 0]), take(0, 2, 1), Transform::Reshape(vec![6])]),
        // More than one block of a file is read.
        (vec![3000, 300], vec![take(0, 3, 700), take(1, 1, 200)]),
        (vec![2, 700_000], vec![take(1, 1, 600_000)]),
    ];
    for stored in [DType::F32, DType::F16, DType::BF16] {
        for (shape, transforms) in &cases {
            let (_folder, path) = file(stored, shape);
            let store = Store::open(&[path]).unwrap();
            let expected = plain(shape, transforms);
            for value in [DType::F32, DType::F16] {
                let weight = recipe(stored, shape, transforms, value);
                let tensor = store.read(&weight).unwrap();
                assert_eq!(tensor.ty, weight.ty());
                assert!(tensor.values() == expected, "{stored} {shape:?} {transforms:?}");
                let encoded: Vec<u8> = match value {
                    DType::F16 => expected.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
                    _ => expected.iter().flat_map(|x| x.to_le_bytes()).collect(),
                };
                assert!(bytes_of(&store, &weight) == encoded, "{stored} {shape:?} {transforms:?} as {value}");
            }
        }
    }
}

#[test]
fn integers_are_cut_but_not_changed() {
    let (_folder, path) = file(DType::I32, &[6, 4]);
    let store = Store::open(&[path]).unwrap();
    let weight = recipe(DType::I32, &[6, 4], &[Transform::Take { axis: 1, chunks: 1, keep: 2 }], DType::I32);
    let expected: Vec<i32> =
        (0..6).flat_map(|row| [number(row * 4) as i32, number(row * 4 + 1) as i32]).collect();
    assert_eq!(store.read(&weight).unwrap().integers(), expected);
    assert_eq!(bytes_of(&store, &weight), expected.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
    let mut as_float = weight;
    as_float.dtype = DType::F32;
    assert!(store.read(&as_float).is_err());
}

#[test]
fn what_f16_cannot_hold_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let bytes: Vec<u8> = [1.0f32, -70000.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![2], &bytes).unwrap();
    std::fs::write(&path, serialize([("x", view)], None).unwrap()).unwrap();
    let store = Store::open(&[path]).unwrap();
    let error = store.stream(&recipe(DType::F32, &[2], &[], DType::F16), &mut |_| Ok(())).unwrap_err();
    assert_eq!(error.class(), Class::Limit);
    assert!(error.to_string().contains("-7e4") && error.to_string().contains("tensor w"), "{error}");
}

#[test]
fn a_store_answers_for_what_is_there() {
    let (_folder, path) = file(DType::F16, &[2, 3]);
    let store = Store::open(std::slice::from_ref(&path)).unwrap();
    assert_eq!(store.names().collect::<Vec<_>>(), ["x"]);
    let mut missing = recipe(DType::F16, &[2, 3], &[], DType::F32);
    missing.source = Source::Tensor { name: "y".to_string(), dtype: DType::F16, shape: vec![2, 3] };
    assert!(store.read(&missing).unwrap_err().to_string().contains("missing"));
    let other = recipe(DType::F16, &[3, 2], &[], DType::F32);
    assert!(store.read(&other).unwrap_err().to_string().contains("x is f16[2, 3], expected f16[3, 2]"));
    let twice = Store::open(&[path.clone(), path.clone()]).unwrap_err();
    assert!(twice.to_string().contains("more than one shard"), "{twice}");
    let region = |offset| Region::plain("r", offset, DType::F32, [2]);
    let length = std::fs::metadata(&path).unwrap().len();
    assert!(Store::from_regions(&path, vec![region(length - 8)]).is_ok());
    assert!(Store::from_regions(&path, vec![region(length - 7)]).is_err());
    assert!(Store::from_regions(&path, vec![region(u64::MAX - 3)]).is_err());
}

/// A sharded checkpoint whose index is damaged in one way after another.
#[test]
fn an_index_that_lies_is_named() {
    let source = snapc_tests::fixture("reference/snapgen/sharded_bf16");
    let name = "diffusion_pytorch_model.safetensors";
    assert!(Store::open_checkpoint(&source, name).is_ok());
    let damage = |change: &dyn Fn(&Path, &mut serde_json::Value)| {
        let folder = tempfile::tempdir().unwrap();
        snapc_tests::copy_folder(&source, folder.path());
        let index = folder.path().join(format!("{name}.index.json"));
        let mut json: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&index).unwrap()).unwrap();
        change(folder.path(), &mut json);
        std::fs::write(&index, json.to_string()).unwrap();
        Store::open_checkpoint(folder.path(), name).unwrap_err().to_string()
    };
    let shard = "diffusion_pytorch_model-00002-of-00002.safetensors";
    assert!(damage(&|folder, _| std::fs::remove_file(folder.join(shard)).unwrap()).contains(shard));
    assert!(
        damage(&|_, json| json["weight_map"]["out_mod"] = "../out.safetensors".into())
            .contains("no file beside it")
    );
    assert!(damage(&|_, json| json["weight_map"]["extra"] = shard.into()).contains("extra is in"));
    let removed = damage(&|_, json| {
        json["weight_map"].as_object_mut().unwrap().remove("out_mod");
    });
    assert!(removed.contains("out_mod, which the index does not name"), "{removed}");
    assert!(damage(&|_, json| json["weight_map"] = 3.into()).contains("not what a sharded checkpoint has"));
}

#[test]
fn rows_are_recipes_of_their_own() {
    use Transform::{Double, Part, Repeat, Reshape, Take, Transpose};
    let turn = |perm: &[usize]| Transpose(perm.to_vec());
    let shape = |sizes: &[usize]| Reshape(sizes.to_vec());
    let take = |axis, chunks, keep| Take { axis, chunks, keep };
    let part = |axis, start, size| Part { axis, start, size };
    // Each with the most numbers of a piece, and in how many pieces that is.
    let cases: Vec<(&[usize], Vec<Transform>, usize, usize)> = vec![
        (&[12, 10], vec![], 30, 4),
        (&[12, 10], vec![turn(&[1, 0])], 30, 5),
        (&[12, 10], vec![take(0, 3, 2), take(1, 1, 5), Double(3)], 10, 3),
        (&[12, 10], vec![turn(&[1, 0]), part(0, 2, 6), turn(&[1, 0]), part(0, 1, 8)], 24, 2),
        // The halves of rotary heads, as they are and turned.
        (&[16, 6], vec![shape(&[2, 2, 2, 2, 6]), turn(&[0, 2, 1, 3, 4]), shape(&[16, 6])], 12, 8),
        (
            &[16, 6],
            vec![shape(&[2, 2, 2, 2, 6]), turn(&[0, 2, 1, 3, 4]), shape(&[16, 6]), turn(&[1, 0])],
            32,
            3,
        ),
        // A convolution whose stride is its kernel.
        (&[4, 8, 2, 2], vec![shape(&[4, 8, 4]), turn(&[0, 2, 1]), shape(&[4, 32]), turn(&[1, 0])], 16, 8),
        // The same behind a reshape that joins what is cut.
        (
            &[4, 8, 2, 2],
            vec![shape(&[32, 2, 2]), shape(&[4, 8, 4]), turn(&[0, 2, 1]), shape(&[4, 32]), turn(&[1, 0])],
            16,
            8,
        ),
        (&[4, 6], vec![Repeat(3)], 12, 6),
        (&[24], vec![shape(&[2, 3, 4])], 12, 2),
        // Two rows are three of the source; none is one or two.
        (&[4, 6], vec![turn(&[1, 0]), shape(&[4, 6])], 6, 2),
        // Rows that no range of the source makes.
        (&[4, 6], vec![shape(&[2, 12]), turn(&[1, 0])], 4, 1),
    ];
    for (sizes, transforms, most, count) in cases {
        let (_folder, path) = file(DType::F32, sizes);
        let store = Store::open(&[path]).unwrap();
        let weight = recipe(DType::F32, sizes, &transforms, DType::F32);
        let pieces = weight.row_pieces(most);
        let found: Vec<f32> =
            pieces.iter().flat_map(|piece| store.read(piece).unwrap().values().to_vec()).collect();
        assert_eq!(found, plain(sizes, &transforms), "{transforms:?}");
        assert_eq!(pieces.len(), count, "{transforms:?}");
        assert!(weight.rows(weight.shape()[0], 1).is_none() && weight.rows(0, 0).is_none());
    }
}

/// Whatever rows of a recipe are a recipe of their own hold what the whole holds there.
#[test]
fn rows_of_random_recipes() {
    let mut state = 7u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let (mut told_apart, mut boxes, mut refused) = (0, 0, 0);
    for _ in 0..1500 {
        let sizes: Vec<usize> = (0..1 + random(4)).map(|_| [1, 2, 3, 4, 6, 8][random(6)]).collect();
        let (mut shape, mut transforms) = (sizes.clone(), Vec::new());
        for _ in 0..random(7) {
            let axis = random(shape.len());
            let change = match random(8) {
                0 => {
                    let chunks = divisor(shape[axis], &mut random);
                    Transform::Take { axis, chunks, keep: 1 + random(shape[axis] / chunks) }
                }
                1 => {
                    let start = random(shape[axis]);
                    Transform::Part { axis, start, size: 1 + random(shape[axis] - start) }
                }
                2..4 => {
                    let mut perm: Vec<usize> = (0..shape.len()).collect();
                    (1..perm.len()).for_each(|at| perm.swap(at, random(at + 1)));
                    Transform::Transpose(perm)
                }
                4..7 => {
                    let (mut left, mut to) = (shape.iter().product(), Vec::new());
                    for _ in 0..random(4) {
                        to.push(divisor(left, &mut random));
                        left /= to.last().unwrap();
                    }
                    to.push(left);
                    Transform::Reshape(to)
                }
                _ if random(2) == 0 && shape[0] < 16 => Transform::Repeat(2),
                _ => Transform::Double(1),
            };
            shape = change.apply(&shape).unwrap();
            transforms.push(change);
        }
        let (_folder, path) = file(DType::F32, &sizes);
        let store = Store::open(&[path]).unwrap();
        let weight = recipe(DType::F32, &sizes, &transforms, DType::F32);
        let whole = plain(&sizes, &transforms);
        let row = whole.len() / shape[0];
        for _ in 0..6 {
            let start = random(shape[0]);
            let size = 1 + random(shape[0] - start);
            let Some(rows) = weight.rows(start, size) else {
                refused += 1;
                continue;
            };
            let found = store.read(&rows).unwrap();
            assert_eq!(found.values(), &whole[start * row..(start + size) * row], "{sizes:?} {transforms:?}");
            assert_eq!(bytes_of(&store, &rows), little_endian(found.values()), "{sizes:?} {transforms:?}");
            told_apart += 1;
            let parts = |change: &&Transform| matches!(change, Transform::Part { .. });
            boxes += usize::from(rows.transforms.iter().take_while(parts).count() > 1);
        }
    }
    println!("{told_apart} rows, {boxes} of ranges on several axes, {refused} refused");
    assert!(told_apart > 4000 && boxes > 500 && refused > 500, "the recipes are too much alike");
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A number that divides `of`.
fn divisor(of: usize, random: &mut impl FnMut(usize) -> usize) -> usize {
    let divisors: Vec<usize> = (1..=of).filter(|&size| of.is_multiple_of(size)).collect();
    divisors[random(divisors.len())]
}

#[test]
fn large_weights_are_moved_piece_by_piece() {
    let (rows, cols) = (2600, 2000);
    let (_folder, path) = file(DType::F16, &[rows, cols]);
    let store = Store::open(&[path]).unwrap();
    let turned = recipe(DType::F16, &[rows, cols], &[Transform::Transpose(vec![1, 0])], DType::F16);
    assert!(store.stored_needs(&turned) < 26 << 20);
    let bytes = bytes_of(&store, &turned);
    let number_at = |at: usize| number(at % rows * cols + at / rows);
    let same = |(at, pair): (usize, &[u8; 2])| f16::from_le_bytes(*pair).to_f32() == number_at(at);
    assert!(bytes.as_chunks::<2>().0.iter().enumerate().all(same));
    let swapped = [
        Transform::Reshape(vec![1300, 2, cols]),
        Transform::Transpose(vec![1, 0, 2]),
        Transform::Reshape(vec![rows, cols]),
        Transform::Double(2),
    ];
    let bytes = bytes_of(&store, &recipe(DType::F16, &[rows, cols], &swapped, DType::F32));
    let number_at = |at: usize| {
        let (row, col) = (at / cols, at % cols);
        4.0 * number((row % 1300 * 2 + row / 1300) * cols + col)
    };
    let same = |(at, four): (usize, &[u8; 4])| f32::from_le_bytes(*four) == number_at(at);
    assert!(bytes.as_chunks::<4>().0.iter().enumerate().all(same));
}

#[test]
fn codes_do_not_depend_on_pieces() {
    let sizes = [2400, 1024];
    let (_folder, path) = file(DType::F16, &sizes);
    let store = Store::open(&[path]).unwrap();
    for text in ["int8", "int4", "int4 group 32", "palette4", "palette6 group 100"] {
        let encoding: Encoding = text.parse().unwrap();
        let weight = |first: usize, count: usize| {
            let part = Transform::Part { axis: 0, start: first, size: count };
            recipe(DType::F16, &sizes, &[part, Transform::Encode(encoding)], DType::F16)
        };
        let whole = weight(0, sizes[0]);
        let (mut bytes, mut tables) = (Vec::new(), Vec::new());
        let mut take = |stored: Stored| {
            match stored {
                Stored::Bytes(more) => bytes.extend_from_slice(more),
                Stored::Tables(more) => tables.extend(more),
                Stored::Lengths(_) => panic!("there are no steps"),
            }
            Ok(())
        };
        store.stored(&whole, &mut Scratch::default(), &mut take).unwrap();
        let encoded = store.encode(&whole).unwrap();
        assert_eq!((encoded.packed().unwrap(), &encoded.tables), (bytes, &tables), "{text}");
        // Rows alone, but where all share a table.
        if encoding.group.is_some() || text.starts_with("int") {
            let alone: Vec<u8> =
                (0..24).flat_map(|at| store.encode(&weight(at * 100, 100)).unwrap().codes).collect();
            assert_eq!(encoded.codes, alone, "{text}");
        }
        if text == "palette4" {
            // 251 numbers, as often as they come.
            let count = |value: usize| (sizes[0] * sizes[1] - value).div_ceil(251) as f64;
            let (values, counts): (Vec<f32>, Vec<f64>) = (0..251).map(|at| (number(at), count(at))).unzip();
            let best = snapc_weights::quantize::kmeans(&values, &counts, 16).unwrap();
            let best: Vec<f16> = best.centroids.into_iter().map(f16::from_f32).collect();
            assert_eq!(tables, best);
        }
    }
    let gptq = Encoding { method: Method::Gptq, ..Encoding::int(4, Some(32)) };
    assert!(!gptq.can_cut(&sizes, 0, 0, 100));
}

/// Weight `n` is `n` blocks of `n`, taken on these limits.
fn overlapped(limits: Limits, stop: Option<usize>) -> (Vec<u8>, Result<(), Error>) {
    let needs: Vec<u64> = (0..40).map(|number| number % 7 * 10).collect();
    let mut taken = Vec::new();
    let result = in_order(
        limits,
        &needs,
        &|number, _, sink| {
            if stop == Some(number) {
                return Err(Error::input(format!("{number} cannot be made")));
            }
            (0..number).try_for_each(|_| sink(Stored::Bytes(&[number as u8])))
        },
        &mut |number, stored| {
            if let Stored::Bytes(bytes) = stored {
                assert_eq!(bytes, [number as u8]);
                taken.extend_from_slice(bytes);
            }
            if taken.len() > 700 { Err(Error::input("the disk is full")) } else { Ok(()) }
        },
    );
    (taken, result)
}

#[test]
fn work_that_overlaps_is_taken_in_order() {
    for jobs in [1, 2, 5] {
        for memory in [1, 50, 1000] {
            let (taken, result) = overlapped(Limits { jobs, memory }, Some(30));
            assert!(taken.is_sorted());
            assert_eq!(taken.len(), 30 * 29 / 2);
            assert_eq!(result.unwrap_err().message(), "30 cannot be made");
            let (taken, result) = overlapped(Limits { jobs, memory }, None);
            assert_eq!((taken.len(), result.unwrap_err().message()), (701, "the disk is full"));
        }
    }
}

#[test]
fn a_thread_that_panics_lets_none_wait() {
    for jobs in [2, 5] {
        let limits = Limits { jobs, memory: 1000 };
        let make: Make = &|number, _, sink| {
            assert!(number != 7 && number < 20, "a fault of the program");
            (0..9).try_for_each(|_| sink(Stored::Bytes(&[0])))
        };
        let error = in_order(limits, &[1; 40], make, &mut |_, _| Ok(())).unwrap_err();
        assert!(error.message().contains("stopped in the middle"), "{error}");
    }
}

#[test]
fn a_number_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let bytes: Vec<u8> = [1.0, f32::NAN].iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F16, vec![2], &bytes).unwrap();
    std::fs::write(&path, serialize([("x", view)], None).unwrap()).unwrap();
    let store = Store::open(&[path]).unwrap();
    let error = store.stream(&recipe(DType::F16, &[2], &[], DType::F16), &mut |_| Ok(())).unwrap_err();
    assert_eq!((error.class(), error.message()), (Class::Input, "a weight is NaN, expected a number"));
}
