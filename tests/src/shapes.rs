//! Does a picture of the shapes pipeline show what its prompt says? Objects are connected components of a colour whose outline fits that
//! of a shape; a picture is right if it shows all that is said and no more.

use snapc_weights::Tensor;

/// Pixels of a side.
const SIDE: usize = 64;
/// Samples a pixel on each axis, for the outlines that components are held against.
const FINE: usize = 3;
/// Cells of a side of an outline, and samples of a cell.
const CELLS: usize = 12;
const SAMPLES: usize = 4;

const COLOURS: [(&str, [f32; 3]); 9] = [
    ("red", [220.0, 40.0, 40.0]),
    ("green", [40.0, 165.0, 60.0]),
    ("blue", [45.0, 75.0, 225.0]),
    ("yellow", [245.0, 215.0, 40.0]),
    ("purple", [150.0, 50.0, 185.0]),
    ("cyan", [50.0, 205.0, 225.0]),
    ("white", [245.0, 245.0, 245.0]),
    ("black", [15.0, 15.0, 15.0]),
    ("gray", [128.0, 128.0, 128.0]),
];
/// The first of the colours are those of objects, the others those of backgrounds.
const OBJECT_COLOURS: usize = 6;
const SHAPES: [&str; 5] = ["circle", "square", "triangle", "star", "cross"];
const RELATIONS: [&str; 4] = ["left of", "right of", "above", "below"];

/// What a prompt says.
#[derive(Debug, PartialEq)]
struct Scene {
    /// Size, colour and shape of each object.
    objects: Vec<(Option<String>, String, String)>,
    relation: Option<&'static str>,
    background: String,
}

fn parse(prompt: &str) -> Scene {
    let (objects, background) = match prompt.split_once(" on a ") {
        Some((objects, background)) => (objects, background.trim_end_matches(" background").to_string()),
        None => (prompt, "white".to_string()),
    };
    let object = |text: &str| {
        let words: Vec<&str> = text.split(' ').filter(|word| !["a", "two", "three"].contains(word)).collect();
        let [size @ .., colour, shape] = &words[..] else { panic!("{text:?} names no object") };
        let shape = SHAPES.into_iter().find(|known| shape.starts_with(known)).unwrap();
        (size.first().map(|size| size.to_string()), colour.to_string(), shape.to_string())
    };
    let relation = RELATIONS.into_iter().find(|relation| objects.contains(&format!(" {relation} ")));
    let between = relation.map_or(" and ".to_string(), |relation| format!(" {relation} "));
    let count = match objects.split(' ').next() {
        Some("two") => 2,
        Some("three") => 3,
        _ => 1,
    };
    let objects = objects.split(&between).flat_map(|text| vec![object(text); count]).collect();
    Scene { objects, relation, background }
}

fn inside(shape: &str, x: f64, y: f64) -> bool {
    match shape {
        "circle" => x * x + y * y <= 1.0,
        "square" => x.abs() <= 0.9 && y.abs() <= 0.9,
        "triangle" => y <= 0.9 && y >= -0.9 + 1.8 * x.abs(),
        "cross" => (x.abs() <= 0.34 && y.abs() <= 1.0) || (y.abs() <= 0.34 && x.abs() <= 1.0),
        _ => {
            let corner = |i: usize| {
                let radius = if i.is_multiple_of(2) { 1.1 } else { 0.46 };
                let angle = (i as f64).mul_add(std::f64::consts::PI / 5.0, -std::f64::consts::FRAC_PI_2);
                (radius * angle.cos(), radius * angle.sin())
            };
            let crossed = (0..10).filter(|&i| {
                let ((x1, y1), (x2, y2)) = (corner(i), corner((i + 1) % 10));
                (y1 > y) != (y2 > y) && x < (x2 - x1) * (y - y1) / (y2 - y1) + x1
            });
            crossed.count() % 2 == 1
        }
    }
}

type Outline = [f64; CELLS * CELLS];

/// A component on a grid over its bounding box, and the box's height and width.
fn outline(points: &[(usize, usize)]) -> (Outline, usize, usize) {
    let span = |of: &dyn Fn(&(usize, usize)) -> usize| {
        let (low, high) = (points.iter().map(of).min().unwrap(), points.iter().map(of).max().unwrap());
        (low, high - low + 1)
    };
    let ((top, height), (left, width)) = (span(&|point| point.0), span(&|point| point.1));
    let mut filled = vec![false; height * width];
    points.iter().for_each(|&(row, col)| filled[(row - top) * width + col - left] = true);
    let at = |sample: usize, size: usize| {
        ((sample as f64 + 0.5) / (CELLS * SAMPLES) as f64 * size as f64).min(size as f64 - 1.0) as usize
    };
    let mut cells = [0.0; CELLS * CELLS];
    for row in 0..CELLS * SAMPLES {
        for col in 0..CELLS * SAMPLES {
            if filled[at(row, height) * width + at(col, width)] {
                cells[row / SAMPLES * CELLS + col / SAMPLES] += 1.0 / (SAMPLES * SAMPLES) as f64;
            }
        }
    }
    (cells, height, width)
}

/// The mean outline of a shape, drawn in three sizes at two places.
fn template(shape: &str) -> Outline {
    let mut mean = [0.0; CELLS * CELLS];
    for radius in [7.0, 10.0, 14.0] {
        for centre in [32.0, 32.5] {
            let covered = |row: usize, col: usize| {
                let fine =
                    |of: usize, sample: usize| ((of * FINE + sample) as f64 + 0.5) / FINE as f64 - centre;
                let samples = (0..FINE * FINE).filter(|sample| {
                    inside(shape, fine(col, sample % FINE) / radius, fine(row, sample / FINE) / radius)
                });
                2 * samples.count() > FINE * FINE
            };
            let all = (0..SIDE * SIDE).map(|place| (place / SIDE, place % SIDE));
            let points: Vec<(usize, usize)> = all.filter(|&(row, col)| covered(row, col)).collect();
            mean.iter_mut().zip(outline(&points).0).for_each(|(mean, cell)| *mean += cell / 6.0);
        }
    }
    mean
}

#[derive(Clone, Debug)]
struct Object {
    shape: &'static str,
    colour: &'static str,
    centre: (f64, f64),
    side: usize,
    /// Whether its outline is that of a shape.
    clear: bool,
}

/// Says of pictures whether they show their prompts.
pub struct Detector([Outline; SHAPES.len()]);

impl Default for Detector {
    fn default() -> Self {
        Detector(SHAPES.map(template))
    }
}

impl Detector {
    /// Whether an image `[1, 3, 64, 64]` in [-1, 1] shows all that the prompt says, and no more.
    pub fn is_right(&self, prompt: &str, image: &Tensor) -> bool {
        let (objects, background) = self.detect(image);
        let scene = parse(prompt);
        let mut left: Vec<Object> = objects.iter().filter(|object| object.clear).cloned().collect();
        let mut found = Vec::new();
        for (_, colour, shape) in &scene.objects {
            let Some(place) = left.iter().position(|one| one.colour == colour && one.shape == shape) else {
                return false;
            };
            found.push(left.remove(place));
        }
        let sized = scene.objects.iter().zip(&found).all(|((size, ..), found)| match size.as_deref() {
            Some("small") => found.side <= 17,
            Some(_) => found.side >= 24,
            None => true,
        });
        objects.len() == scene.objects.len()
            && sized
            && related(scene.relation, &found)
            && background == scene.background
    }

    fn detect(&self, image: &Tensor) -> (Vec<Object>, &'static str) {
        assert_eq!(image.ty.shape, [1, 3, SIDE, SIDE]);
        let channel = |place: usize, channel: usize| {
            let value = image.values()[channel * SIDE * SIDE + place];
            ((value.clamp(-1.0, 1.0) + 1.0) * 127.5).round_ties_even()
        };
        let nearest = |place: usize| {
            let distance =
                |colour: &[f32; 3]| (0..3).map(|c| (channel(place, c) - colour[c]).powi(2)).sum::<f32>();
            let distances = COLOURS.map(|(_, colour)| distance(&colour));
            (0..COLOURS.len())
                .fold(0, |best, next| if distances[next] < distances[best] { next } else { best })
        };
        let near: Vec<usize> = (0..SIDE * SIDE).map(nearest).collect();
        let mut border = [0; COLOURS.len()];
        for step in 0..SIDE {
            for place in [step, (SIDE - 1) * SIDE + step, step * SIDE, step * SIDE + SIDE - 1] {
                border[near[place]] += 1;
            }
        }
        let background =
            (0..COLOURS.len()).fold(0, |best, next| if border[next] > border[best] { next } else { best });
        let objects =
            components(&near).into_iter().filter_map(|(colour, points)| self.object(colour, &points));
        (objects.collect(), COLOURS[background].0)
    }

    fn object(&self, colour: usize, points: &[(usize, usize)]) -> Option<Object> {
        let (outline, height, width) = outline(points);
        if points.len() < 30 || height.min(width) < 6 {
            return None;
        }
        let error = |template: &Outline| {
            let squares = template.iter().zip(&outline).map(|(a, b)| (a - b) * (a - b));
            squares.sum::<f64>() / outline.len() as f64
        };
        let errors = self.0.each_ref().map(error);
        let best =
            (0..errors.len()).fold(0, |best, next| if errors[next] < errors[best] { next } else { best });
        let mean = |of: &dyn Fn(&(usize, usize)) -> usize| {
            points.iter().map(|point| of(point) as f64).sum::<f64>() / points.len() as f64
        };
        let aspect = height as f64 / width as f64;
        Some(Object {
            shape: SHAPES[best],
            colour: COLOURS[colour].0,
            centre: (mean(&|point| point.1), mean(&|point| point.0)),
            side: height.max(width),
            clear: errors[best] < 0.12 && aspect > 0.6 && aspect < 1.67,
        })
    }
}

fn related(relation: Option<&str>, found: &[Object]) -> bool {
    let (Some(relation), [first, second]) = (relation, found) else { return true };
    let (dx, dy) = (first.centre.0 - second.centre.0, first.centre.1 - second.centre.1);
    let along = match relation {
        "left of" => -dx,
        "right of" => dx,
        "above" => -dy,
        _ => dy,
    };
    along > 6.0 && along > 0.7 * dx.abs().max(dy.abs())
}

/// Places of one colour of an object that hang together by their sides.
fn components(near: &[usize]) -> Vec<(usize, Vec<(usize, usize)>)> {
    let mut seen = vec![false; near.len()];
    let mut found = Vec::new();
    for start in 0..near.len() {
        if seen[start] || near[start] >= OBJECT_COLOURS {
            continue;
        }
        let (mut stack, mut points) = (vec![start], Vec::new());
        seen[start] = true;
        while let Some(place) = stack.pop() {
            let (row, col) = (place / SIDE, place % SIDE);
            points.push((row, col));
            let mut visit = |next: usize| {
                if near[next] == near[start] && !seen[next] {
                    seen[next] = true;
                    stack.push(next);
                }
            };
            if row > 0 {
                visit(place - SIDE)
            }
            if row + 1 < SIDE {
                visit(place + SIDE)
            }
            if col > 0 {
                visit(place - 1)
            }
            if col + 1 < SIDE {
                visit(place + 1)
            }
        }
        found.push((near[start], points));
    }
    found
}
