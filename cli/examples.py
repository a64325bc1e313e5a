"""Examples under the help of every verb, as they would be typed."""

from __future__ import annotations

EXAMPLES = {
    "demo": ("slowflow demo", "slowflow demo --model digits-sit --out /tmp/small"),
    "run": ("slowflow run ckpt.pt --data images/ --features pixels --out runs/all",),
    "doctor": ("slowflow doctor", "slowflow doctor --json"),
    "ls": ("slowflow ls", "slowflow ls references", "slowflow ls figures"),
    "check": (
        "slowflow check ckpt.pt --data images/",
        "slowflow check - --family custom --factory mymodel:make --data digits",
    ),
    "measure": (
        "slowflow measure ckpt.pt --data images/ --out runs/before --steps 50 --samples 1000",
        "slowflow measure ckpt.pt --data images/ --out runs/before --dry-run",
        "slowflow measure ckpt.pt --data images/ --out runs/two --steps 50 --steps 25",
    ),
    "suggest": ("slowflow suggest runs/before", "slowflow suggest runs/before --json"),
    "diagnose": ("slowflow diagnose runs/before",),
    "calibrate": ("slowflow calibrate ckpt.pt --data images/ --samples 1000",),
    "posttrain": (
        "slowflow posttrain ckpt.pt --data images/ --gamma auto --run runs/before --steps 20000 --out runs/mixflow",
        "slowflow posttrain ckpt.pt --data images/ --remedy plain --steps 20000 --out runs/plain --log tensorboard",
    ),
    "pretrain": ("slowflow pretrain recipe.toml --out runs/own",),
    "export": ("slowflow export runs/mixflow --layout sit --drop-sigma --out mine.pt",),
    "sample": (
        "slowflow sample ckpt.pt --n 64 --steps 50 --out samples.npz --images grid.png",
        "slowflow sample ckpt.pt --n 8 --protocol sit-paper --latents --out latents.npz",
    ),
    "evaluate": ("slowflow evaluate ckpt.pt --data images/ --features pixels --steps 50 --out runs/judged",),
    "encode": ("slowflow encode photos/ --codec sd-vae/ --size 256 --out latents/",),
    "plot": (
        "slowflow plot runs/before --figure fan --out fan.png",
        "slowflow plot runs/before runs/after --figure before-after --out change.pdf",
    ),
    "compare": ("slowflow compare runs/before runs/after", "slowflow compare runs/study --against plain"),
    "study": ("slowflow study study.toml --out runs/study", "slowflow study study.toml --out runs/study --dry-run"),
    "status": ("slowflow status runs/before", "slowflow status runs/before --json"),
    "report": (
        "slowflow report runs/before --out before.html",
        "slowflow report runs/before runs/after --out change.md",
    ),
}
