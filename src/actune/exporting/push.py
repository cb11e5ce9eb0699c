"""An exported folder put on a hub: Hugging Face by huggingface_hub, ModelScope by modelscope-hub (an extra).

Tokens are those that the libraries find (`HF_TOKEN`, `MODELSCOPE_API_TOKEN`, a login); this module never sees one. Endpoints
too (`HF_ENDPOINT`, `MODELSCOPE_ENDPOINT`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from actune.config.extras import require_package
from actune.core.errors import ConfigError, ModelError
from actune.data.reading.hub import HubId, parse_hub_id

_SECRET = re.compile(r"\b(?:hf_|ms-|Bearer\s+)[A-Za-z0-9._-]{8,}")


def parse_target(text: str) -> HubId:
    """Return the repository to push to.

    Raises:
        ConfigError: it is not `hf:owner/name` or `ms:owner/name`.
        MissingExtraError: `ms:` without modelscope-hub.
    """
    target = parse_hub_id(text)
    if target.path or target.revision:
        raise ConfigError(
            f"{text!r} names a file or a revision; a whole repository is pushed", fix="write hf:owner/name"
        )
    if target.hub == "ms":
        require_package("modelscope_hub", extra="modelscope", what="--push_to_hub ms:...")
    return target


def push(folder: Path, target: HubId, *, public: bool, say: Callable[[str], None]) -> str:
    """Upload a folder as one commit and return the address of the repository; it is made if it is not there.

    A repository that is there keeps its visibility.

    Raises:
        ModelError: the hub refuses it or cannot be reached; nothing local is lost.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files) / 2**20
    shown = "public" if public else "private, if it is new"
    say(f"pushing {len(files)} files, {size:.1f} MiB, to {target} ({shown}): {', '.join(path.name for path in files)}")
    send = _push_hf if target.hub == "hf" else _push_ms
    return send(folder, target, public)


def _push_hf(folder: Path, target: HubId, public: bool) -> str:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import disable_progress_bars

    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    # The base of the library's HTTP errors is that of the client it was built on (httpx or httpx2).
    failures = (HfHubHTTPError.__mro__[1], OSError, ValueError)
    disable_progress_bars()
    api = HfApi(endpoint=endpoint)
    try:
        api.create_repo(target.repository, repo_type="model", private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=target.repository,
            folder_path=folder,
            repo_type="model",
            commit_message="Model exported by actune",
        )
    except failures as error:
        _refuse(target, endpoint, error, "HF_TOKEN (or `hf auth login`)")
    return f"{endpoint}/{target.repository}"


def _push_ms(folder: Path, target: HubId, public: bool) -> str:
    from modelscope_hub import HubApi
    from modelscope_hub.config import HubConfig
    from modelscope_hub.errors import HubError

    config = HubConfig()
    api: Any = HubApi(config)
    endpoint = str(config.endpoint).rstrip("/")
    try:
        if not api.repo_exists(target.repository, "model"):
            api.create_repo(target.repository, "model", visibility="public" if public else "private")
        api.upload_folder(
            target.repository,
            "model",
            folder,
            commit_message="Model exported by actune",
            disable_tqdm=True,
            use_cache=False,
        )
    except (HubError, OSError, ValueError) as error:
        _refuse(target, endpoint, error, "MODELSCOPE_API_TOKEN (or `modelscope login`)")
    return f"{endpoint}/models/{target.repository}"


def _refuse(target: HubId, endpoint: str, error: Exception, credentials: str) -> NoReturn:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = _SECRET.sub("***", " ".join(lines))  # what the server says stands below the first line
    status = getattr(getattr(error, "response", None), "status_code", None)
    fix = "check the network and the address; the folder is complete, so it can be pushed by hand"
    if status in (401, 403):
        fix = f"give a token that may write there, in {credentials}"
    raise ModelError(
        f"{target} could not be pushed to {endpoint}: {type(error).__name__}: {why[:300]}", fix=fix
    ) from error
