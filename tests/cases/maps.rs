use snapc_ir::ops::{MapFromTokens, SplitTokens, TokensFromMap, UpsampleNearest};

use super::{Case, at, f64s, numbers, places};

pub fn cases() -> Vec<Case> {
    let map_shape = [2, 3, 2, 4];
    let map = numbers(17, &map_shape);
    let tokens = numbers(18, &[2, 8, 3]);
    let as_tokens =
        places(&[2, 2, 4, 3]).iter().map(|p| f64s(&map)[at(&map_shape, &[p[0], p[3], p[1], p[2]])]).collect();
    let as_map = places(&map_shape)
        .iter()
        .map(|p| f64s(&tokens)[at(&[2, 2, 4, 3], &[p[0], p[2], p[3], p[1]])])
        .collect();
    let mut cases = vec![
        Case::new(
            "tokens_from_map",
            "tokens_from_map",
            vec![("x", map.clone())],
            vec![],
            |b, v| b.op(TokensFromMap {}, v),
            vec![as_tokens],
        ),
        Case::new(
            "map_from_tokens",
            "map_from_tokens",
            vec![("x", tokens)],
            vec![],
            |b, v| b.op(MapFromTokens { grid: [2, 4] }, v),
            vec![as_map],
        ),
    ];
    for factor in [2, 3] {
        let (rows, cols, channels) = (2, 3, 2);
        let x = numbers(19, &[2, rows * cols, factor * factor * channels]);
        let open = [2, rows, cols, factor, factor, channels];
        // Row r of the result is row r % factor of the token in row r / factor.
        let expected = places(&[2, rows * factor, cols * factor, channels])
            .iter()
            .map(|p| {
                f64s(&x)[at(&open, &[p[0], p[1] / factor, p[2] / factor, p[1] % factor, p[2] % factor, p[3]])]
            })
            .collect();
        let split = SplitTokens { grid: [rows, cols], factor };
        cases.push(Case::new(
            &format!("split_tokens_{factor}"),
            "split_tokens",
            vec![("x", x)],
            vec![],
            |b, v| b.op(split, v),
            vec![expected],
        ));
        let expected = places(&[2, 3, 2 * factor, 4 * factor])
            .iter()
            .map(|p| f64s(&map)[at(&map_shape, &[p[0], p[1], p[2] / factor, p[3] / factor])])
            .collect();
        cases.push(Case::new(
            &format!("upsample_nearest_{factor}"),
            "upsample_nearest",
            vec![("x", map.clone())],
            vec![],
            |b, v| b.op(UpsampleNearest { factor }, v),
            vec![expected],
        ));
    }
    cases
}
