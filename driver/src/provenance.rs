//! What a release pipeline asks for beside the artifacts: a bill of materials (CycloneDX 1.6) and a statement of provenance (in-toto
//! Statement v1 with SLSA's Provenance v1). Both say nothing that the manifest does not, in the words of their formats, without a time or a
//! path of the machine. Nothing is signed here.

use std::path::Path;

use serde_json::{Value, json};
use snapc_ir::{Error, Result};

use crate::files::{MANIFEST, PREDICATE, PROVENANCE, digest_of};
use crate::inputs::InputEntry;
use crate::manifest::Manifest;

/// The bill of materials.
pub const SBOM: &str = "sbom.cdx.json";

/// What kind of build it was, as a URI: it names `externalParameters`, which are the manifest's `options`.
const BUILD_TYPE: &str = "urn:snapc:compile:v1";

/// Who built it: the command. Whom the machine belongs to says the signature.
const BUILDER: &str = "urn:snapc:cli";

/// A JSON file's text.
fn text(value: &Value) -> String {
    format!("{value:#}\n")
}

/// The bill of materials: what went in.
pub fn sbom(manifest: &Manifest) -> String {
    let subnet = manifest.label();
    let licences = manifest.licence.as_ref().map(|found| json!([{"license": {"name": found.name}}]));
    let mut components = Vec::new();
    for (part, fingerprint) in &manifest.checkpoints {
        let folder = if part == "vae_decoder" { "vae" } else { part };
        let own =
            |input: &&InputEntry| input.role == "weights" && input.path.split('/').next() == Some(folder);
        let files: Vec<Value> = manifest.inputs.iter().filter(own).map(file).collect();
        let mut model = json!({
            "type": "machine-learning-model",
            "bom-ref": format!("checkpoint:{part}"),
            "name": part,
            "properties": [{"name": "snapc:fingerprint", "value": fingerprint}],
            "components": files,
        });
        if let Some(licences) = &licences {
            model["licenses"] = licences.clone();
        }
        components.push(model);
    }
    components.extend(manifest.inputs.iter().filter(|input| input.role != "weights").map(file));
    let refs: Vec<Value> = components.iter().map(|component| component["bom-ref"].clone()).collect();
    let snapc = json!({"type": "application", "name": "snapc", "version": manifest.snapc});
    let subject = json!({
        "type": "machine-learning-model",
        "bom-ref": "compiled",
        "name": format!("{}/{subnet}", manifest.options.target),
    });
    let mut bom = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"tools": {"components": [snapc]}, "component": subject},
        "components": components,
        "dependencies": [{"ref": "compiled", "dependsOn": refs}],
    });
    bom["serialNumber"] = serial(&digest_of(bom.to_string().as_bytes())).into();
    text(&bom)
}

/// A file as a component.
fn file(input: &InputEntry) -> Value {
    let kind =
        if matches!(input.role.as_str(), "tokenizer" | "prompts" | "calibration") { "data" } else { "file" };
    let mut component = json!({
        "type": kind,
        "bom-ref": format!("file:{}:{}", input.path, input.sha256.as_deref().unwrap_or_default()),
        "name": input.path,
        "properties": [
            {"name": "snapc:role", "value": input.role},
            {"name": "snapc:bytes", "value": input.bytes.to_string()},
        ],
    });
    if let Some(sha256) = &input.sha256 {
        component["hashes"] = json!([{"alg": "SHA-256", "content": sha256}]);
    }
    component
}

/// A UUID of version 8 (RFC 9562) of a digest: the same bill has the same number.
fn serial(digest: &str) -> String {
    let part = |from: usize, to: usize| digest.get(from..to).unwrap_or_default();
    format!("urn:uuid:{}-{}-8{}-8{}-{}", part(0, 8), part(8, 12), part(12, 15), part(15, 18), part(18, 30))
}

/// Writes the statement about a folder whose manifest is final, and its predicate alone.
///
/// # Errors
/// If they cannot be written.
pub fn write(folder: &Path, manifest: &Manifest) -> Result<()> {
    let subject = |name: &str, sha256: &str| json!({"name": name, "digest": {"sha256": sha256}});
    let mut subjects: Vec<Value> =
        manifest.files.iter().map(|file| subject(&file.path, &file.sha256)).collect();
    subjects.push(subject(MANIFEST, &digest_of(manifest.text()?.as_bytes())));
    let dependency = |input: &InputEntry| {
        let mut found = json!({"name": input.path, "annotations": {"role": input.role}});
        if let Some(sha256) = &input.sha256 {
            found["digest"] = json!({"sha256": sha256});
        }
        found
    };
    let predicate = json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": manifest.options,
            "internalParameters": {"passes": manifest.passes},
            "resolvedDependencies": manifest.inputs.iter().map(dependency).collect::<Vec<_>>(),
        },
        "runDetails": {"builder": {"id": BUILDER, "version": {"snapc": manifest.snapc}}},
    });
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": predicate,
    });
    for (name, value) in [(PROVENANCE, &statement), (PREDICATE, &predicate)] {
        let path = folder.join(name);
        std::fs::write(&path, text(value)).map_err(|error| Error::io("write", &path, &error))?;
    }
    Ok(())
}
