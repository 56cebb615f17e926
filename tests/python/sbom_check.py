"""Fails unless the files are bills of materials of CycloneDX 1.6, by its JSON schema: sbom_check.py FILE.."""

import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

for name in sys.argv[1:]:
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(Path(name).read_text())
    if error is not None:
        sys.exit(f"{name}: {error}")
