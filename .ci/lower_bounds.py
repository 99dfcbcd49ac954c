"""Print the oldest supported versions as constraints for pip: each `>=` of setup.cfg as `==`."""

import configparser
import re
from pathlib import Path

config = configparser.ConfigParser()
config.read(Path(__file__).parent.parent / "setup.cfg")
needed = config["options"]["install_requires"] + config["options.extras_require"]["test"]
for line in needed.split():
    name, version = re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", line).groups()
    print(f"{name}=={version}")
