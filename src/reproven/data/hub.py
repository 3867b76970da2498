"""Revisions of Hugging Face repositories that paper-tier experiments name.

A name on the hub may come to mean other files; a revision does not. Each is the one that public code or documents
pin for exactly that name; the papers pin none. They were not resolved on the hub itself.
"""

from __future__ import annotations

REVISIONS = {
    "google-bert/bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
    "openai-community/gpt2": "607a30d783dfa663caf39e06633721c8d4cfcd7e",
    "EleutherAI/pythia-410m": "9879c9b5f8bea9051dcb0e68dff21493d67e9d4f",
    "HuggingFaceTB/SmolLM2-360M": "f8027fd0eaeea54caa13c31d31b9fdc459c38b49",
    "Qwen/Qwen2.5-0.5B": "060db6499f32faf8b98477b0a26969ef7d8b9987",
    "Qwen/Qwen2.5-7B": "d149729398750b98c0af14eb82c78cfe92750796",
    "Qwen/Qwen2.5-14B": "97e1e76335b7017d8f67c08a19d103c0504298c9",
    "Qwen/Qwen2.5-32B": "1818d35814b8319459f4bd55ed1ac8709630f003",
    "mistralai/Mistral-7B-v0.1": "27d67f1b5f57dc0953326b2601d68371d40ea8da",
    "mistralai/Mistral-Small-3.1-24B-Base-2503": "ba6496e3dce1d0bdc93848804b1d4b9d5f3c57bc",
    "meta-llama/Meta-Llama-3-8B": "8cde5ca8380496c9a6cc7ef3a8b46a0372a1d920",
    "meta-llama/Llama-3.2-1B": "4e20de362430cd3b72f300e6b0f18e50e7166e08",
    "timm/vit_small_patch16_224.augreg_in21k_ft_in1k": "7e2c55630205e1266030f18370f4c6ed1a514b52",
    "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k": "063c6c38a5d8510b2e57df480445e94b231dad2c",
    "AutonLab/MOMENT-1-small": "411e288267f82cce86296dbe4d6c8bc533cc162f",
    "AutonLab/MOMENT-1-base": "5e44b0ea26376a176360f87831124e018f876d96",
    "AutonLab/MOMENT-1-large": "ca58581bc7bea2ebed4e80dc0a3e4b8b609c6ecc",
    "mteb/stsbenchmark-sts": "b0fddb56ed78048fa8b90373c8a3cfc37b684831",
    "PolyAI/banking77": "90d4e2ee5521c04fc1488f065b8b083658768c57",
    "cardiffnlp/tweet_eval": "b3a375baf0f409c77e6bc7aa35102b7b3534f8be",
    "emozilla/pg19": "c021754c8e01c5b1cc83a1f549c1f97fbbb756b8",
    "cerebras/SlimPajama-627B": "2d0accdd58c5d5511943ca1f5ff0e3eb5e293543",
    "Skylion007/openwebtext": "79d93d786212f7344586290adb811d4ae6a1762c",
}


def revision(repository: str) -> str | None:
    """Return the commit that `repository` is read at; None (whatever the local cache has) for one without a pin."""
    return REVISIONS.get(repository)
