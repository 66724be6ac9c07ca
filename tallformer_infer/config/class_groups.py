"""Groups of the Kinetics-400 classes, for `--classes @sports`; every class is in at least one group.

The table is ours: the dataset has no such groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from tallformer_infer.errors import ConfigError

_GROUPS = {
    "sports": """
        abseiling; archery; arm wrestling; bobsledding; bouncing on trampoline; bowling; bungee jumping;
        canoeing or kayaking; capoeira; catching or throwing baseball; catching or throwing frisbee; catching or
        throwing softball; cheerleading; clean and jerk; climbing a rope; deadlifting; disc golfing; diving
        cliff; dodgeball; dribbling basketball; drop kicking; dunking basketball; golf chipping; golf driving;
        golf putting; gymnastics tumbling; hammer throw; high jump; high kick; hitting baseball; hockey stop;
        hurdling; hurling (sport); ice climbing; ice skating; javelin throw; jetskiing; jogging; juggling soccer
        ball; jumping into pool; kicking field goal; kicking soccer ball; kitesurfing; long jump; motorcycling;
        paragliding; parasailing; parkour; passing American football (in game); passing American football (not
        in game); playing badminton; playing basketball; playing cricket; playing ice hockey; playing kickball;
        playing paintball; playing squash or racquetball; playing tennis; playing volleyball; pole vault;
        punching bag; punching person (boxing); riding a bike; riding mountain bike; riding or walking with
        horse; rock climbing; roller skating; running on treadmill; sailing; scuba diving; shooting basketball;
        shooting goal (soccer); shot put; side kick; skateboarding; ski jumping; skiing (not slalom or
        crosscountry); skiing crosscountry; skiing slalom; skydiving; slacklining; snatch weight lifting;
        snorkeling; snowboarding; snowkiting; somersaulting; springboard diving; surfing water; swimming
        backstroke; swimming breast stroke; swimming butterfly stroke; sword fighting; tai chi; throwing axe;
        throwing ball; throwing discus; tobogganing; trapezing; triple jump; vault; water skiing; windsurfing;
        wrestling
    """,
    "fitness": """
        bench pressing; bending back; bouncing on trampoline; cartwheeling; clean and jerk; climbing a rope;
        deadlifting; doing aerobics; exercising arm; exercising with an exercise ball; front raises; gymnastics
        tumbling; hula hooping; jogging; lunge; pull ups; punching bag; push up; running on treadmill; situp;
        skipping rope; snatch weight lifting; somersaulting; squat; stretching arm; stretching leg; swinging
        legs; tai chi; yoga; zumba
    """,
    "water": """
        canoeing or kayaking; catching fish; crossing river; diving cliff; ice fishing; jetskiing; jumping into
        pool; kitesurfing; parasailing; sailing; scuba diving; snorkeling; springboard diving; surfing water;
        swimming backstroke; swimming breast stroke; swimming butterfly stroke; water skiing; water sliding;
        windsurfing
    """,
    "snow": """
        biking through snow; bobsledding; hockey stop; ice climbing; ice fishing; ice skating; making snowman;
        playing ice hockey; shoveling snow; ski jumping; skiing (not slalom or crosscountry); skiing
        crosscountry; skiing slalom; sled dog racing; snowboarding; snowkiting; snowmobiling; tobogganing
    """,
    "dance": """
        belly dancing; breakdancing; capoeira; cheerleading; country line dancing; dancing ballet; dancing
        charleston; dancing gangnam style; dancing macarena; headbanging; jumpstyle dancing; krumping; marching;
        robot dancing; salsa dancing; swing dancing; tango dancing; tap dancing; zumba
    """,
    "music": """
        air drumming; beatboxing; busking; drumming fingers; playing accordion; playing bagpipes; playing bass
        guitar; playing cello; playing clarinet; playing cymbals; playing didgeridoo; playing drums; playing
        flute; playing guitar; playing harmonica; playing harp; playing keyboard; playing organ; playing piano;
        playing recorder; playing saxophone; playing trombone; playing trumpet; playing ukulele; playing violin;
        playing xylophone; recording music; singing; strumming guitar; surfing crowd; tapping guitar; whistling
    """,
    "cooking": """
        baking cookies; barbequing; bartending; breading or breadcrumbing; cooking chicken; cooking egg; cooking
        on campfire; cooking sausages; cutting pineapple; cutting watermelon; flipping pancake; frying
        vegetables; grinding meat; making a cake; making a sandwich; making pizza; making sushi; making tea;
        peeling apples; peeling potatoes; picking fruit; scrambling eggs; setting table; sharpening knives;
        stomping grapes; tossing salad; washing dishes
    """,
    "eating": """
        bartending; dining; drinking; drinking beer; drinking shots; eating burger; eating cake; eating carrots;
        eating chips; eating doughnuts; eating hotdog; eating ice cream; eating spaghetti; eating watermelon;
        making tea; opening bottle; tasting beer; tasting food
    """,
    "household": """
        arranging flowers; blowing leaves; chopping wood; cleaning floor; cleaning gutters; cleaning pool;
        cleaning shoes; cleaning toilet; cleaning windows; climbing ladder; decorating the christmas tree;
        digging; doing laundry; folding clothes; folding napkins; garbage collecting; ironing; making bed;
        mopping floor; moving furniture; mowing lawn; picking fruit; planting trees; sanding floor; setting
        table; shining shoes; shoveling snow; sweeping floor; trimming trees; washing dishes; watering plants
    """,
    "crafts": """
        arranging flowers; assembling computer; bending metal; blasting sand; blowing glass; bookbinding; brush
        painting; building cabinet; building shed; carving pumpkin; changing oil; changing wheel; checking
        tires; chopping wood; clay pottery making; decorating the christmas tree; digging; drawing;
        extinguishing fire; folding napkins; folding paper; getting a tattoo; knitting; laying bricks; making
        jewelry; plastering; ripping paper; sanding floor; sharpening knives; sharpening pencil; shredding
        paper; spray painting; spraying; tying knot (not on a tie); weaving basket; welding; wrapping present
    """,
    "animals": """
        bee keeping; catching fish; feeding birds; feeding fish; feeding goats; grooming dog; grooming horse;
        holding snake; ice fishing; milking cow; petting animal (not cat); petting cat; riding camel; riding
        elephant; riding mule; riding or walking with horse; shearing sheep; sled dog racing; training dog;
        walking the dog
    """,
    "vehicles": """
        biking through snow; bobsledding; canoeing or kayaking; changing oil; changing wheel; checking tires;
        crossing river; driving car; driving tractor; hoverboarding; jetskiing; motorcycling; paragliding;
        parasailing; pumping gas; pushing car; pushing cart; pushing wheelchair; riding a bike; riding mountain
        bike; riding scooter; riding unicycle; roller skating; sailing; skateboarding; skydiving; snowmobiling;
        unloading truck; using segway
    """,
    "grooming": """
        applying cream; bandaging; blowing nose; braiding hair; brushing hair; brushing teeth; curling hair;
        cutting nails; doing nails; dying hair; filling eyebrows; fixing hair; gargling; getting a haircut;
        getting a tattoo; massaging back; massaging feet; massaging legs; massaging person's head; shaving head;
        shaving legs; taking a shower; trimming or shaving beard; tying bow tie; tying tie; washing feet;
        washing hair; washing hands; waxing back; waxing chest; waxing eyebrows; waxing legs
    """,
    "people": """
        answering questions; applauding; auctioning; baby waking up; blowing nose; busking; carrying baby;
        celebrating; clapping; counting money; cracking neck; crawling baby; crying; dining; drumming fingers;
        finger snapping; giving or receiving award; headbanging; headbutting; hugging; kissing; laughing;
        marching; news anchoring; opening present; presenting weather forecast; pumping fist; punching person
        (boxing); reading book; reading newspaper; shaking hands; shaking head; sign language interpreting;
        singing; slapping; smoking; smoking hookah; sneezing; sniffing; sticking tongue out; surfing crowd;
        tapping pen; testifying; texting; tickling; unboxing; using computer; using remote controller (not
        gaming); waiting in line; writing; yawning
    """,
    "play": """
        balloon blowing; blowing out candles; bouncing on trampoline; cartwheeling; catching or throwing
        frisbee; climbing tree; contact juggling; dodgeball; egg hunting; faceplanting; flying kite; hopscotch;
        hoverboarding; hula hooping; juggling balls; juggling fire; juggling soccer ball; making snowman;
        opening present; playing cards; playing chess; playing controller; playing kickball; playing monopoly;
        playing paintball; playing poker; riding mechanical bull; riding scooter; riding unicycle; rock scissors
        paper; shuffling cards; skipping rope; slacklining; spinning poi; swinging on something; throwing axe;
        tickling; tossing coin; trapezing; unboxing; water sliding
    """,
}

CLASS_GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {name: tuple(label.strip() for label in " ".join(text.split()).split(";")) for name, text in _GROUPS.items()}
)
"""Class names by group; a model may have only some of them."""


def expand_groups(names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Replace each `@group` by those of its classes that the model has; each name is returned once.

    Args:
        names: Classes and groups; a class name of the model is always a class, even if it starts with `@`.
        known: Class names of the model.

    Raises:
        ConfigError: There is no such group, or the model has none of its classes.
    """
    found: list[str] = []
    for name in names:
        if name in known or not name.startswith("@"):
            found.append(name)
            continue
        members = CLASS_GROUPS.get(name[1:].lower())
        if members is None:
            raise ConfigError(f"group {name!r}: no such group; there are {_listed(CLASS_GROUPS)}")
        of_model = [label for label in members if label in known]
        if not of_model:
            groups = groups_of(known)
            there = f"it knows classes of {_listed(groups)}" if groups else "it knows no class of any group"
            raise ConfigError(f"group {name!r}: the model knows none of its {len(members)} classes; {there}")
        found += of_model
    return tuple(dict.fromkeys(found))


def groups_of(known: Sequence[str]) -> dict[str, int]:
    """Groups with classes of the model, and the number of those classes."""
    counts = {name: sum(label in known for label in members) for name, members in CLASS_GROUPS.items()}
    return {name: count for name, count in counts.items() if count}


def _listed(groups: Iterable[str]) -> str:
    return ", ".join(f"@{name}" for name in groups)
