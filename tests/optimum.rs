//! The folder that Hugging Face optimum's pipelines load, in optimum itself: `tests/python/optimum_check.py`, in an environment of
//! its own, as optimum and its PyTorch are larger than all other runtimes together.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;
use snapc_driver::{CompileOptions, Layout, MinOs, Part, Precision, Silent, Target, Width, compile};
use snapc_frontends::Pipeline;
use snapc_interp::Interpreter;
use snapc_tests::{
    assert_close, compile_options, entry, files, fixture, psnr, runtimes, tensor_file, tensors,
};
use snapc_weights::Tensor;

fn compiled(precision: Precision, layout: Layout, output: &Path) -> PathBuf {
    let options = CompileOptions {
        widths: vec![Width::Subnet("small".to_string())],
        layout,
        ..compile_options(Target::Onnx, precision, output)
    };
    compile(&options, &mut Silent).unwrap().remove(0).folder
}

/// Runs a command; fails with what it printed.
fn call(command: &mut Command, what: &str) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{what}: {error}"));
    let [out, err] = [&done.stdout, &done.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(done.status.success(), "{what} failed ({}):\n{out}{err}", done.status);
    out
}

/// The Python of an environment under `target/` that has optimum.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/requirements-optimum.txt");
        let wanted = std::fs::read_to_string(&requirements).unwrap();
        // A test binary lies in target/<profile>/deps/.
        let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_path_buf();
        let (folder, stamp) = (target.join("python-optimum"), target.join("python-optimum.txt"));
        let lock = File::create(target.join("python-optimum.lock")).unwrap();
        lock.lock().unwrap();
        if std::fs::read_to_string(&stamp).ok().as_ref() != Some(&wanted) {
            let _ = std::fs::remove_file(&stamp);
            let _ = std::fs::remove_dir_all(&folder);
            call(Command::new("python3").args(["-m", "venv"]).arg(&folder), "making the environment");
            call(
                Command::new(folder.join("bin/python"))
                    .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
                    .arg(&requirements),
                "installing optimum (tests/python/requirements-optimum.txt)",
            );
            std::fs::write(&stamp, &wanted).unwrap();
        }
        folder.join("bin/python")
    })
}

/// optimum picks its pipeline by the folder alone, and draws the golden pictures.
#[test]
fn optimum_draws_the_golden_pictures() {
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    let facts: Value =
        serde_json::from_str(&std::fs::read_to_string(fixture("shapes/golden.json")).unwrap()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/optimum_check.py");
    let cases = [(Precision::F32, 0), (Precision::F32, 1), (Precision::F16, 0)];
    for (precision, number) in cases {
        let folder = tempfile::tempdir().unwrap();
        let dist = compiled(precision, Layout::Optimum, folder.path());
        let [noise, out] = ["noise", "out"].map(|name| folder.path().join(name));
        tensor_file(&noise, &[("noise", &entry(&golden["noise"], number))]);
        let mut command = Command::new(python());
        command.arg(&script).arg(&dist).args(["--prompt", facts["prompts"][number].as_str().unwrap()]);
        command.arg("--noise").arg(&noise).arg("--out").arg(&out);
        // Nothing may be asked of a hub.
        command.env("HF_HUB_OFFLINE", "1");
        let said = call(&mut command, "optimum");
        let loaded: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        assert_eq!(loaded["pipeline"], "ORTSanaPipeline");

        let image = tensors(&out).remove("image").unwrap();
        let found = psnr(image.values(), entry(&golden["small.image"], number).values());
        println!("{} prompt {number}: {found:.1} dB, {loaded}", precision.name());
        assert!(found >= 40.0, "{} prompt {number}: {found:.1} dB", precision.name());
    }
}

/// A part, its inputs and its output, each by our name.
type Case = (Part, Vec<(&'static str, Tensor)>, &'static str, Tensor);

/// The first step of the first golden prompt.
fn golden_cases() -> [Case; 3] {
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    let get = |name: &str| entry(&golden[name], 0);
    let scaling = Pipeline::open(&fixture("shapes")).unwrap().scaling_factor() as f32;
    let latent = get("small.latent4");
    let divided =
        Tensor::f32(latent.ty.shape.clone(), latent.values().iter().map(|value| value / scaling).collect());
    [
        (Part::TextEncoder, vec![("input_ids", get("ids"))], "text", get("text")),
        (
            Part::Transformer,
            vec![
                ("latent", get("noise")),
                ("timestep", Tensor::f32([1], vec![1000.0])),
                ("text", get("text")),
                ("text_mask", get("text_mask")),
            ],
            "velocity",
            get("small.velocity0"),
        ),
        (Part::VaeDecoder, vec![("latent", divided)], "image", get("small.image")),
    ]
}

/// The other names and types are the file's alone: read back, the graphs have ours, and compute what they computed.
#[test]
fn read_back_with_our_names() {
    let folder = tempfile::tempdir().unwrap();
    let dist = compiled(Precision::F32, Layout::Optimum, folder.path());
    for (part, inputs, output, expected) in golden_cases() {
        let (graph, store) = Target::Onnx.backend(MinOs::default()).read(&dist.join(part.name())).unwrap();
        assert_eq!(graph.outputs()[0].name, output);
        let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
        let found = Interpreter::new(&graph, &store).run(&inputs).unwrap().remove(0);
        assert_close(part.name(), &found, &expected, 1e-4);
    }
}

/// The onnx package's checker and ONNX Runtime take the files, by the names of the contract.
#[test]
fn run_by_onnx_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let dist = compiled(Precision::F32, Layout::Optimum, folder.path());
    let (mut jobs, mut expectations) = (Vec::new(), Vec::new());
    for (part, inputs, output, expected) in golden_cases() {
        let name = |own| Layout::Optimum.port(part.name(), own).unwrap().0;
        let named: Vec<(&str, &Tensor)> = inputs.iter().map(|(own, tensor)| (name(own), tensor)).collect();
        let file = |end: &str| folder.path().join(format!("{}.{end}", part.name()));
        tensor_file(&file("in"), &named);
        jobs.push(runtimes::Job {
            artifact: dist.join(part.name()),
            inputs: file("in"),
            outputs: file("out"),
        });
        expectations.push((name(output), expected));
    }
    for (found, (name, expected)) in runtimes::run(Target::Onnx, &jobs).iter().zip(expectations) {
        assert_close(name, &found[name], &expected, 1e-4);
    }
}

/// Both layouts have the files of a pipeline: the same each time, and none says where anything lay.
#[test]
fn companions() {
    let place = fixture("shapes").display().to_string();
    for (layout, class) in [(Layout::Default, "SnapGenPlusPlusPipeline"), (Layout::Optimum, "SanaPipeline")] {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [first, second] =
            folders.each_ref().map(|folder| files(&compiled(Precision::F16, layout, folder.path())));
        assert!(first == second, "{}", layout.name());
        let json = |name: &str| -> Option<Value> {
            first.get(Path::new(name)).map(|bytes| serde_json::from_slice(bytes).unwrap())
        };
        let index = json("model_index.json").unwrap();
        assert_eq!(index["_class_name"], class);
        for part in Part::ALL {
            assert_eq!(index[part.name()][1], "OnnxRuntimeModel");
            let config = json(&format!("{}/config.json", part.name()));
            assert_eq!(config.is_some(), layout == Layout::Optimum, "{}", part.name());
        }
        assert_eq!(
            json("scheduler/scheduler_config.json").unwrap()["_class_name"],
            "FlowMatchEulerDiscreteScheduler"
        );
        for (name, bytes) in
            first.iter().filter(|(name, _)| name.extension().is_some_and(|end| end == "json"))
        {
            assert!(!String::from_utf8_lossy(bytes).contains(&place), "{}", name.display());
        }
    }
}
