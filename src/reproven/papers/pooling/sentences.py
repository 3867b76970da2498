"""Our own sentences for the similar/different test of section 3.5: one adjective is replaced.

Each entry: a sentence with a gap, its word, two near-synonyms, two words of another meaning.
"""

SENTENCES: tuple[tuple[str, str, tuple[str, str], tuple[str, str]], ...] = (
    ("the {} child opened the door", "happy", ("glad", "cheerful"), ("wooden", "distant")),
    ("she gave a {} answer to the question", "quick", ("fast", "rapid"), ("purple", "salty")),
    ("it was a {} evening at the lake", "quiet", ("calm", "silent"), ("electric", "legal")),
    ("the {} house stood on the hill", "large", ("big", "huge"), ("nervous", "liquid")),
    ("he told a {} story about the war", "sad", ("tragic", "gloomy"), ("square", "frozen")),
    ("they found a {} path through the forest", "narrow", ("thin", "slim"), ("angry", "musical")),
    ("the company made a {} profit this year", "small", ("little", "tiny"), ("green", "holy")),
    ("a {} wind blew over the fields", "cold", ("chilly", "icy"), ("careful", "digital")),
    ("the {} student passed the examination", "smart", ("clever", "bright"), ("rusty", "vertical")),
    ("we ate a {} meal at the station", "tasty", ("delicious", "savoury"), ("political", "blind")),
    ("the {} engine stopped in the rain", "old", ("aged", "ancient"), ("friendly", "sweet")),
    ("his {} friend wrote a letter", "honest", ("truthful", "sincere"), ("cloudy", "magnetic")),
    ("the market had a {} week", "bad", ("poor", "terrible"), ("wooden", "royal")),
    ("the {} river runs to the sea", "wide", ("broad", "vast"), ("funny", "secret")),
    ("an {} man crossed the street", "angry", ("furious", "irate"), ("empty", "alpine")),
    ("the price of oil was {} in march", "high", ("elevated", "raised"), ("loyal", "soft")),
    ("she wore a {} coat to the dinner", "beautiful", ("lovely", "pretty"), ("statistical", "noisy")),
    ("the {} dog slept near the fire", "tired", ("weary", "sleepy"), ("metallic", "formal")),
    ("this is a {} problem for the bank", "difficult", ("hard", "tough"), ("golden", "humid")),
    ("the team won an {} match", "important", ("crucial", "significant"), ("oval", "edible")),
    ("the road was {} after the storm", "wet", ("damp", "soaked"), ("jealous", "ancient")),
    ("he had a {} idea for the garden", "strange", ("odd", "weird"), ("heavy", "frozen")),
    ("the {} soldier returned to his village", "brave", ("bold", "courageous"), ("plastic", "lunar")),
    ("a {} light came from the window", "bright", ("brilliant", "shining"), ("hungry", "rural")),
)
